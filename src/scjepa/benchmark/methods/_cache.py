"""Results kept in a folder, by everything they depend on."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, replace
from functools import lru_cache
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

import scjepa
from scjepa.benchmark._files import whole
from scjepa.benchmark.methods._result import PARTS, MethodResult

_ARRAYS = PARTS


@lru_cache(maxsize=1)
def source_digest() -> str:
    """Return a checksum of scjepa's own files, so that a changed method is run anew."""
    folder = Path(scjepa.__file__).parent
    found = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        found.update(str(path.relative_to(folder)).encode() + path.read_bytes())
    return found.hexdigest()


def key(**parts: Any) -> str:
    """Return a short name of a run: a checksum of its parts and of scjepa's files."""
    text = json.dumps({**parts, "source": source_digest()}, sort_keys=True, default=repr)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def read(folder: str | Path, name: str) -> MethodResult | None:
    """Return the result of that name, or ``None`` where there is none that can be read."""
    path = Path(folder) / f"{name}.npz"
    try:
        with np.load(path, allow_pickle=False) as arrays:
            about = json.loads(str(arrays["about"]))
            return MethodResult(**about, **{key: arrays[key] for key in _ARRAYS if key in arrays}, cached=True)
    except (OSError, ValueError, KeyError, TypeError, BadZipFile):
        return None


def write(folder: str | Path, name: str, result: MethodResult) -> None:
    """Keep a result; the file is there whole or not at all."""
    about = asdict(
        replace(
            result,
            embedding=None,
            clusters=None,
            cell_embedding=None,
            info=dict(result.info),
            versions=dict(result.versions),
        )
    )
    for gone in (*_ARRAYS, "cached"):
        about.pop(gone)
    arrays = {key: getattr(result, key) for key in _ARRAYS if getattr(result, key) is not None}
    with whole(Path(folder) / f"{name}.npz") as part:
        np.savez(part, about=np.array(json.dumps(about, default=repr)), **arrays)
