"""Lock files: of several processes that share a folder one does a thing, and one that died holds nothing up."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from scjepa._core.files import is_alive

_PAUSE = 0.2
"""Seconds between looks at a lock that another process holds."""

_HALF_WRITTEN = 10.0
"""Seconds after which a lock that says nothing was left by a process that died while it made it."""


def take(path: Path) -> bool:
    """Make a lock file, and return whether this process has it.

    A lock of a process of this machine that is no more is taken over. Of a process on another machine nothing can be
    known: its lock stays until it, or the user, removes it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    mine = json.dumps({"pid": os.getpid(), "host": socket.gethostname()})
    try:
        with open(path, "x") as file:
            file.write(mine)
        return True
    except FileExistsError:
        if not _is_stale(path):
            return False
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    draft.write_text(mine)
    os.replace(draft, path)
    return _read(path) == mine  # two may have taken it over: the last has it


def release(path: Path) -> None:
    """Remove a lock file of this process."""
    path.unlink(missing_ok=True)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Wait for a lock, and hold it."""
    while not take(path):
        time.sleep(_PAUSE)
    try:
        yield
    finally:
        release(path)


def holder(path: Path) -> str:
    """Return who holds a lock, for messages."""
    try:
        found = json.loads(_read(path))
        return f"process {found['pid']} on {found['host']}"
    except (ValueError, KeyError, TypeError):
        return "another process"


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except FileNotFoundError:
        return ""


def _is_stale(path: Path) -> bool:
    try:
        found = json.loads(_read(path))
        pid, host = int(found["pid"]), str(found["host"])
    except (ValueError, KeyError, TypeError):
        try:
            return time.time() - path.stat().st_mtime > _HALF_WRITTEN
        except FileNotFoundError:
            return True
    return host == socket.gethostname() and not is_alive(pid)
