"""One hash for whatever is compared by what it holds: arrays, text and values."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator

import numpy as np

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
