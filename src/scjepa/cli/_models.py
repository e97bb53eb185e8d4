"""Saved models and checkpoints: what they ask of data, and the loading of them."""

from __future__ import annotations

import argparse
from dataclasses import fields
from pathlib import Path
from typing import Any

from anndata import AnnData

from scjepa.cli._cells import Where, add_graph, read_cells
from scjepa.cli._files import DataFile
from scjepa.cli._join import as_anndata
from scjepa.models.store import read_model
from scjepa.pretrained import locate
from scjepa.stjepa.data import DataKeys
from scjepa.stjepa.model import STJEPA


class SavedModel:
    """A model on disk.

    Parameters
    ----------
    name
        A folder that ``save`` or ``save_pretrained`` wrote, or the name of a checkpoint.

    Raises
    ------
    FileNotFoundError, ValueError
        If there is none, or it is damaged.
    """

    def __init__(self, name: str | Path) -> None:
        self.path: Path = locate(name)
        self.facts, _ = read_model(self.path, STJEPA.__name__)

    @property
    def keys(self) -> DataKeys:
        """Where the model finds what it reads."""
        setup = self.facts["setup"]
        return DataKeys(**{f.name: setup[f.name] for f in fields(DataKeys) if f.name in setup})

    @property
    def n_neighbors(self) -> int:
        """Neighbors of a cell that the model looks at."""
        return int(self.facts["config"]["tokens"]["n_neighbors"])

    def cells_of(self, file: DataFile, options: argparse.Namespace) -> AnnData:
        """Return the cells of a file, with a graph, under the names that the model was set up with.

        Where the command line does not say where things are, they are looked for where the model's own data has them.
        """
        keys = self.keys
        with file.opened() as group:
            columns = set(group["obs"].attrs["column-order"])
        where = Where(
            layer=options.layer or keys.layer,
            library_key=options.library_key or (keys.library_key if keys.library_key in columns else None),
            technology_key=options.technology_key or (keys.technology_key if keys.technology_key in columns else None),
            spatial_key=options.spatial_key or keys.spatial_key,
            neighbors_key=options.neighbors_key or keys.neighbors_key,
        )
        cells = read_cells(file, where, use_graph=not options.rebuild_graph)
        add_graph(cells, self.n_neighbors)
        return as_anndata(cells, keys)

    def load(self, adata: AnnData, accelerator: str, all_genes: bool = False) -> Any:
        """Return the model on ``adata``.

        Parameters
        ----------
        all_genes
            Take in genes that the model does not know, with vectors drawn at random, rather than leaving them out.
        """
        if all_genes:
            return STJEPA.from_pretrained(self.path, adata, accelerator=accelerator)
        return STJEPA.load(self.path, adata, accelerator=accelerator)
