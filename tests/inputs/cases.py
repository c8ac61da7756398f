"""What became of inputs: how many were read, how many refused, and what the worst of them cost."""

import re
import time
from pathlib import Path

_REFUSALS = (ValueError, OSError, SystemExit)
# Of Linux; elsewhere memory is not measured.
_RESET_PEAK, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")
_MOST_SECONDS = 10.0  # of computing, for one input


class Cases:
    """A context manager that is entered once per input; an error of a refusal passes through it.

    Raises:
        AssertionError: at the exit, if an input took too long.
    """

    def __init__(self) -> None:
        self.read = self.refused = 0
        self._slowest = self._largest = 0.0

    def __enter__(self) -> None:
        self._memory = _peak_mb(anew=True)
        self._start = time.process_time()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        seconds = time.process_time() - self._start
        self._slowest = max(self._slowest, seconds)
        self._largest = max(self._largest, _peak_mb() - self._memory)
        self.read += kind is None
        self.refused += kind is not None and issubclass(kind, _REFUSALS)
        assert seconds < _MOST_SECONDS, f"one input took {seconds:.0f} s of computing"

    def cells(self) -> tuple[str, str]:
        """The number of cases, and what became of them."""
        memory = f" and {self._largest:.0f} MB" if _RESET_PEAK.exists() else ""
        return (
            str(self.read + self.refused),
            f"{self.read} read, {self.refused} refused, at most {self._slowest:.2f} s of computing{memory}",
        )


def _peak_mb(*, anew: bool = False) -> float:
    """The most memory that the process has had, in MB; `anew` begins with what it has now."""
    if not _RESET_PEAK.exists():
        return 0.0
    if anew:
        _RESET_PEAK.write_text("5")
    return int(re.search(r"VmHWM:\s*(\d+) kB", _STATUS.read_text())[1]) / 1000
