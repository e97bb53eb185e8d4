"""Files that are there whole or not at all."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import scjepa
from scjepa._core.files import whole

try:
    import fcntl
except ImportError:  # not a POSIX system
    fcntl = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Wait until no other process is within ``alone`` of the same file, which is made and stays.

    Where the system or the disk knows no such locks, nothing is waited for.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        if fcntl is not None:
            with suppress(OSError):  # a disk without locks
                fcntl.flock(file, fcntl.LOCK_EX)
        yield  # closing the file lets the next one in


def check_folder(folder: Path) -> None:
    """Check that a folder is there or can be made.

    Raises
    ------
    NotADirectoryError
        If it is a file, or is to be within one.
    """
    there = next((path for path in (folder, *folder.parents) if path.exists()), None)
    if there is not None and not there.is_dir():
        raise NotADirectoryError(f"{there} is a file, and results are written to a folder. Name another one.")


def write_texts(folder: str | Path, texts: Mapping[str, str]) -> list[Path]:
    """Write texts to files of these names, each whole or not at all; return their paths."""
    paths = []
    for name, text in texts.items():
        with whole(Path(folder) / name) as part:
            part.write_text(text)
        paths.append(Path(folder) / name)
    return paths


def write_figures(folder: str | Path, figures: Mapping[str, Figure]) -> list[Path]:
    """Write figures as PNG of these names, each whole or not at all; return their paths."""
    paths = []
    for name, figure in figures.items():
        path = Path(folder) / f"{name}.png"
        with whole(path) as part:
            figure.savefig(part, dpi=150, bbox_inches="tight")
        paths.append(path)
    return paths


@lru_cache(maxsize=1)
def source_digest() -> str:
    """Return a checksum of scjepa's own files: it tells by which version of the code a result was made."""
    folder = Path(scjepa.__file__).parent
    found = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        found.update(str(path.relative_to(folder)).encode() + path.read_bytes())
    return found.hexdigest()[:8]
