"""Files that are there whole or not at all, and digests by which what they hold is known again."""

from __future__ import annotations

import glob
import hashlib
import json
import os
import shutil
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np

try:
    import fcntl
except ImportError:  # not a POSIX system
    fcntl = None  # type: ignore[assignment]

_NUMBERED = Path("/proc/self/ns/pid")
"""What counts this process: containers of one name have processes of one number, and are not the same machine."""

_HOST = hashlib.blake2b(
    f"{socket.gethostname()}{os.readlink(_NUMBERED) if _NUMBERED.is_symlink() else ''}".encode(), digest_size=4
).hexdigest()
"""This machine, or container, in names of files on disks that several share."""


def is_alive(pid: int) -> bool:
    """Return whether there is a process of this number on this machine; where that cannot be asked, there is."""
    if os.name == "nt":
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it is there, and another user's
        return True
    return True


@contextmanager
def whole(path: Path, beside: Path | None = None) -> Iterator[Path]:
    """Yield a hidden place to write a file or folder to; it takes the name ``path`` at the end, or is removed.

    What a process of this machine that was killed left of the same file is removed too.

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
    mine = f".{beside.stem}.part-{_HOST}-"
    for left in beside.parent.glob(f"{glob.escape(mine)}*{glob.escape(beside.suffix)}"):
        if not is_alive(int(left.name.removeprefix(mine).partition("-")[0])):
            _remove(left)
    draft = beside.with_name(f"{mine}{os.getpid()}-{threading.get_ident()}{beside.suffix}")
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
    before = path.with_name(f".{path.name}.before-{_HOST}-{os.getpid()}")
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


# -- locks: of processes that share a folder one does a thing, and one that died holds nothing up ---------------------

_HELD: dict[Path, IO[str]] = {}
"""Lock files of this process, open: the system holds a lock for as long as its file is open."""


def take(path: Path, wait: bool = False) -> bool:
    """Make a lock file, and return whether this process has it.

    The system lets go of it when the process ends, however that happens, and knows processes of containers and, on most
    shared disks, of other machines. Where the system or the disk knows no locks, everyone is told to have it.

    Parameters
    ----------
    path
        The file; its folder is made.
    wait
        Wait until no other process, or thread, has it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        file = path.open("a+")
        try:
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return False
        except OSError:  # a disk without locks
            pass
        if fcntl is None or _is_at(path, file):
            break
        file.close()  # another had it, and has removed it meanwhile
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}")
    file.flush()
    _HELD[path] = file
    return True


def _is_at(path: Path, file: IO[str]) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def release(path: Path) -> None:
    """Remove a lock file of this process."""
    file = _HELD.pop(path)
    if fcntl is None:  # Windows removes no file that is open
        file.close()
    path.unlink(missing_ok=True)  # before it is let go of: who waited for it sees that it is gone, and makes it anew
    file.close()


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Wait for a lock, and hold it."""
    take(path, wait=True)
    try:
        yield
    finally:
        release(path)


def holder(path: Path) -> str:
    """Return who holds a lock, for messages."""
    try:
        return path.read_text() or "another process"
    except OSError:
        return "another process"


# -- digests ----------------------------------------------------------------------------------------------------------

_BLOCK = 2**26
"""Bytes that are read at once: an array larger than memory passes through piece by piece."""


def digest(*parts: object) -> str:
    """Return a hash of arrays, strings and values that JSON can hold, in the order given."""
    state = hashlib.blake2b(digest_size=16)
    for part in parts:
        if isinstance(part, np.ndarray) and part.dtype != object:
            state.update(f"{part.dtype.str}{part.shape}".encode())
            for block in _blocks(part):
                state.update(block)
        else:
            values = part.tolist() if isinstance(part, np.ndarray) else part
            state.update(json.dumps(values, sort_keys=True, default=str).encode())
        state.update(b"\0")
    return state.hexdigest()


def _blocks(array: np.ndarray) -> Iterator[memoryview]:
    """Yield the bytes of ``array`` in pieces."""
    flat = array.reshape(-1)
    step = max(1, _BLOCK // max(1, array.itemsize))
    for start in range(0, flat.size, step):
        yield np.ascontiguousarray(flat[start : start + step]).view(np.uint8).data


def sum_of_file(path: Path) -> str:
    """Return the sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sum_of_facts(facts: Mapping[str, object], without: str) -> str:
    """Return the sha256 of what a JSON file says, but for the entry ``without``, which holds it."""
    rest = {name: value for name, value in facts.items() if name != without}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


_SIZE = 8
"""Bytes at the beginning of a safetensors file that say how long its header is."""

_DTYPES = {
    **{"U8": np.uint8, "U16": np.uint16, "U32": np.uint32, "I16": np.int16, "I32": np.int32, "I64": np.int64},
    **{"F32": np.float32, "F64": np.float64},
}
"""Types of arrays, as the header has them."""


def mapped_arrays(path: Path, mmap: bool = True) -> dict[str, np.ndarray]:
    """Return the arrays of a safetensors file, mapped copy on write: torch wants arrays that it may write to.

    Parameters
    ----------
    path
        The file.
    mmap
        Map the arrays rather than read them.
    """
    with path.open("rb") as file:
        length = int.from_bytes(file.read(_SIZE), "little")
        header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    arrays = {}
    for name, entry in header.items():
        dtype, shape, (first, last) = _DTYPES[entry["dtype"]], tuple(entry["shape"]), entry["data_offsets"]
        if first == last:  # nothing cannot be mapped
            arrays[name] = np.empty(shape, dtype)
            continue
        mapped = np.memmap(path, dtype, "c", offset=_SIZE + length + first, shape=shape)
        arrays[name] = mapped if mmap else np.array(mapped)
    return arrays
