"""Looks the installed packages up in a database of known vulnerabilities; `make audit` calls it.

pip-audit does it, with the internet. What this program adds is that nothing passes as safe that was not looked up.

Exit codes: 0 no vulnerability is known; 1 one is; 2 nothing could be looked up.
"""

import argparse
import json
import subprocess
import sys
from typing import Any

_AUDIT = ("-m", "pip_audit", "--skip-editable", "--format", "json", "--progress-spinner", "off", "--timeout", "15")


def main(argv: list[str] | None = None) -> int:
    """Command line; see above."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    offline_help = "exit with 0 where nothing could be looked up, for machines without the internet"
    parser.add_argument("--allow-offline", action="store_true", help=offline_help)
    args = parser.parse_args(argv)
    audit = subprocess.run([sys.executable, *_AUDIT], capture_output=True, text=True)
    try:
        packages = json.loads(audit.stdout)["dependencies"]
    except (KeyError, TypeError, ValueError):
        return _nothing((audit.stderr.strip().splitlines() or ["pip-audit said nothing"])[-1], args.allow_offline)
    return _report(packages, args.allow_offline)


def _report(packages: list[dict[str, Any]], allow_offline: bool) -> int:
    audited = [package for package in packages if "vulns" in package]
    others = [package["name"] for package in packages if "vulns" not in package]
    if not audited:
        return _nothing(f"none of {len(packages)} packages was found there", allow_offline)
    vulnerable = [package for package in audited if package["vulns"]]
    for package in vulnerable:
        for vulnerability in package["vulns"]:
            fixed = ", ".join(vulnerability["fix_versions"]) or "no version"
            print(f"{package['name']} {package['version']}: {vulnerability['id']}, repaired in {fixed}")
    missing = f"; not looked up: {', '.join(others)}" if others else ""
    print(f"make audit: {len(audited)} packages looked up, {len(vulnerable)} with known vulnerabilities{missing}.")
    return 1 if vulnerable else 0


def _nothing(reason: str, allow_offline: bool) -> int:
    print(f"make audit: NOTHING WAS AUDITED, the database could not be asked ({reason}).", file=sys.stderr)
    return 0 if allow_offline else 2


if __name__ == "__main__":
    sys.exit(main())
