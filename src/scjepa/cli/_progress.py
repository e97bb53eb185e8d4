"""Progress on stderr, results on stdout."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class Progress:
    """Lines with the seconds since the start, on stderr.

    Parameters
    ----------
    options
        Of the command line; ``quiet`` is read.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self.quiet: bool = options.quiet
        self._start = time.perf_counter()

    def step(self, text: str) -> None:
        """Tell what is being done."""
        self.note(f"[{time.perf_counter() - self._start:5.0f} s] {text}")

    def note(self, text: str) -> None:
        """Tell something beside."""
        if not self.quiet:
            print(text, file=sys.stderr, flush=True)


@contextmanager
def stopped_with(then: str) -> Iterator[None]:
    """Say ``then`` of a run that is interrupted: what becomes of its work, which the model that trains cannot know."""
    try:
        yield
    except KeyboardInterrupt as stop:
        raise KeyboardInterrupt(f"interrupted; {then}") from stop


def written(path: Path) -> None:
    """Print the path of a result, and nothing else, on stdout: one line for each."""
    print(path, flush=True)
