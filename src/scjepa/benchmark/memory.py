"""Peak memory of this process. It needs nothing of scjepa: the worker of a method in a process loads it by its path."""

from __future__ import annotations

import re
import sys
from pathlib import Path

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def reset_peak() -> None:
    """Forget the peak of memory so far, where the system can (Linux)."""
    try:
        _CLEAR.write_text("5")
    except OSError:
        pass


def peak_gib() -> float:
    """Return the peak resident memory since :func:`reset_peak`, or of the whole session where that is not possible."""
    if _STATUS.is_file():  # ru_maxrss starts at what the parent held when it started this process
        found = re.search(r"VmHWM:\s+(\d+) kB", _STATUS.read_text())
        return int(found.group(1)) / 2**20 if found else float("nan")
    try:
        import resource
    except ImportError:  # Windows
        return float("nan")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**30 if sys.platform == "darwin" else 2**20)
