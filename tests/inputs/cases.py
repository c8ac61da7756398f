"""What became of inputs: how many were read, how many refused, and what the worst of them cost."""

import resource
import time
from pathlib import Path

_REFUSALS = (ValueError, OSError, SystemExit)
_RESET_PEAK = Path("/proc/self/clear_refs")  # of Linux; elsewhere the peak is that of the process since its start


class Cases:
    """A context manager that is entered once per input; an error of a refusal passes through it."""

    def __init__(self) -> None:
        self.read = self.refused = 0
        self.slowest = 0.0
        if _RESET_PEAK.exists():
            _RESET_PEAK.write_text("5")
        self._before = _peak_mb()

    def __enter__(self) -> None:
        self._start = time.perf_counter()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.slowest = max(self.slowest, time.perf_counter() - self._start)
        self.read += kind is None
        self.refused += kind is not None and issubclass(kind, _REFUSALS)

    def cells(self) -> tuple[str, str]:
        """The number of cases, and what became of them."""
        return str(self.read + self.refused), (
            f"{self.read} read, {self.refused} refused; the slowest took {self.slowest:.2f} s; "
            f"memory grew by at most {max(_peak_mb() - self._before, 0)} MB"
        )


def _peak_mb() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1000
