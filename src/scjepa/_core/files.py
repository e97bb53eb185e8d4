"""Files and folders that are there whole or not at all: written beside their place and renamed."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole(path: Path, beside: Path | None = None) -> Iterator[Path]:
    """Yield a hidden place to write a file or folder to; it takes the name ``path`` at the end, or is removed.

    Parameters
    ----------
    path
        What is written, or replaced; its folder is made.
    beside
        What the place is beside, where it may not be beside ``path``. The place has the suffix of it, for what writes
        by suffix.
    """
    beside = path if beside is None else beside
    beside.parent.mkdir(parents=True, exist_ok=True)
    draft = beside.with_name(f".{beside.stem}.part-{os.getpid()}-{threading.get_ident()}{beside.suffix}")
    try:
        yield draft
        _rename(draft, path)
    finally:
        _remove(draft)


def _rename(draft: Path, path: Path) -> None:
    """Give ``draft`` the name ``path``; what had it before is gone only then."""
    if not (path.is_dir() and not path.is_symlink()):
        os.replace(draft, path)
        return
    before = path.with_name(f".{path.name}.before-{os.getpid()}")
    path.rename(before)  # a folder cannot be replaced in one step
    try:
        draft.rename(path)
    except OSError:
        before.rename(path)
        raise
    shutil.rmtree(before)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
