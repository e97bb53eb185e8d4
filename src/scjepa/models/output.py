"""Where embeddings are written: an array of the user's, or a file that outlives a killed run."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from scjepa._core.digest import digest
from scjepa.nn import JEPAModule
from scjepa.tokens.source import TableSource

_NO_MATTER = ("attention", "dropout")
"""Options of encoders that embeddings do not depend on."""


def fingerprint(module: JEPAModule, encoder: str, source: TableSource, scale: str) -> dict[str, str]:
    """Return what embeddings depend on: the encoder's weights and options, the tables and the scale.

    Options, for encoders of as many heads or of another code of ranks have weights of the same shapes, which begin the
    same.
    """
    state = module.encoder(encoder).state_dict()
    weights = (part for name, w in state.items() for part in (name, w.cpu().numpy()))
    options = {name: value for name, value in asdict(module.config.encoder).items() if name not in _NO_MATTER}
    return {
        "weights": digest(*weights),
        "options": digest(options),
        "data": digest(*source.arrays()),
        "scale": scale,
    }


def check_array(out: Any, n_cells: int, width: int) -> np.ndarray:
    """Return ``out`` if embeddings can be written to it as it is.

    Raises
    ------
    TypeError, ValueError
        If it is no array, or its shape or type is not that of the embeddings, or it cannot be written to.
    """
    wanted = f"Pass np.empty(({n_cells}, {width}), dtype=np.float32), or the path of a .npy file."
    if not isinstance(out, np.ndarray):
        raise TypeError(f"out must be a NumPy array, a memory map or the path of a .npy file, found {type(out)}.")
    if out.shape != (n_cells, width) or out.dtype != np.float32:
        raise ValueError(f"out has the shape {out.shape} and dtype {out.dtype}. {wanted}")
    if not out.flags.writeable:
        raise ValueError(f"out cannot be written to (a memory map opened with mode 'r'?). {wanted}")
    return out


class LatentFile:
    """A ``.npy`` file of embeddings, resumed where a killed run left it.

    While it is being written it is called ``<name>.part``; ``<name>.json`` beside it holds what it is made from and how
    many cells are done, and stays when the file is finished, so that the same call finds it done.

    Parameters
    ----------
    path
        The file, ending in ``.npy``.
    shape
        ``(n_cells, width)``.
    made_from
        Fingerprint of model and data.

    Raises
    ------
    ValueError
        If the path does not end in ``.npy``.
    FileExistsError
        If there is a file, finished or not, that was made from another model or other data; nothing is replaced.
    """

    def __init__(self, path: str | Path, shape: tuple[int, int], made_from: dict[str, str]):
        self.path = Path(path)
        if self.path.suffix != ".npy":
            raise ValueError(f"out must be the path of a .npy file, found {str(self.path)!r}.")
        self._part = self.path.with_name(f"{self.path.name}.part")
        self._note = self.path.with_name(f"{self.path.name}.json")
        self._made_from = {**made_from, "shape": list(shape)}
        self.done = self._read_note()
        if self.path.exists():
            self.done = shape[0]
        elif self.done and self._part.is_file():
            self.array = np.lib.format.open_memmap(self._part, mode="r+")
        else:
            self.done = 0
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.array = np.lib.format.open_memmap(self._part, mode="w+", dtype=np.float32, shape=shape)
            self._write_note(0)

    def _read_note(self) -> int:
        """Return how many cells are done, after checking that what is there is of this model and data."""
        there = [path for path in (self.path, self._part) if path.exists()]
        if not there:
            return 0
        try:
            note = json.loads(self._note.read_text())
            made_from, done = note["made_from"], int(note["done"])
        except (OSError, ValueError, KeyError, TypeError):
            made_from, done = {}, 0
        if made_from != self._made_from:
            differs = [name for name, value in self._made_from.items() if made_from.get(name) != value]
            raise FileExistsError(
                f"{there[0]} exists and was not made by this call: {', '.join(differs)} differ. "
                f"Name another file, or delete {self.path.name}, {self._part.name} and {self._note.name}."
            )
        return done

    def _write_note(self, done: int) -> None:
        draft = self._note.with_name(f".{self._note.name}.{os.getpid()}")
        draft.write_text(json.dumps({"made_from": self._made_from, "done": done}, indent=1))
        draft.replace(self._note)

    def keep(self, done: int) -> None:
        """Put what has been written on disk, then note that ``done`` cells are."""
        self.array.flush()
        self._write_note(done)

    def finish(self) -> np.ndarray:
        """Give the file its name and return it, mapped into memory for reading."""
        if not self.path.exists():
            del self.array
            self._part.replace(self.path)
        return np.load(self.path, mmap_mode="r")
