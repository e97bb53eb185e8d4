"""Saved models: what they ask of data, and the loading of them."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

from anndata import AnnData

from scjepa.models import STJEPA
from scjepa.models._data import DataKeys
from scjepa.models._store import MODEL_FILE, read_model


class SavedModel:
    """A model in a folder that ``save`` wrote.

    Parameters
    ----------
    path
        The folder.

    Raises
    ------
    FileNotFoundError, ValueError
        If it is none, or damaged.
    """

    def __init__(self, path: Path) -> None:
        if not (path / MODEL_FILE).is_file():
            what = "is not a folder of a saved model" if path.exists() else "does not exist"
            raise FileNotFoundError(f"{path} {what}. Make one: scjepa fit FILE --out {path}.")
        self.path = path
        self.facts, _ = read_model(path, STJEPA.__name__)

    @property
    def keys(self) -> DataKeys:
        """Where the model finds what it reads."""
        return DataKeys(
            **{f.name: self.facts["setup"][f.name] for f in fields(DataKeys) if f.name in self.facts["setup"]}
        )

    @property
    def n_neighbors(self) -> int:
        """Neighbors of a cell that the model looks at."""
        return int(self.facts["config"]["tokens"]["n_neighbors"])

    def load(self, adata: AnnData, accelerator: str) -> Any:
        """Return the model on ``adata``."""
        return STJEPA.load(self.path, adata, accelerator=accelerator)
