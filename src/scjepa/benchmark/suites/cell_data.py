"""The cells of a comparison: those that are scored, their labels apart from them, and those to pretrain on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from anndata import AnnData

from scjepa._core.anndata import missing_key, text_of, warn_of_words
from scjepa.benchmark.controls import BATCH
from scjepa.benchmark.inputs import Data, counts_only, digest, digest_of_texts, read_named

LABEL = "label"
"""``obs`` column of labels in training cells of fine-tuning, empty elsewhere."""


@dataclass(frozen=True)
class TargetCells:
    """The cells that are scored.

    Attributes
    ----------
    name
        What they are called in tables.
    adata
        Whole counts in CSR, and ``obs["batch"]`` where batches were named. It holds no label.
    labels
        ``(n_cells,)`` texts.
    batches
        ``(n_cells,)`` texts, or ``None``.
    """

    name: str
    adata: AnnData
    labels: np.ndarray
    batches: np.ndarray | None = None

    @cached_property
    def digest(self) -> str:
        """Checksum of the cells, and of the labels they are scored with."""
        return f"{digest(self.adata)[:16]}-{digest_of_texts(self.labels)}"

    def subset(self, cells: np.ndarray) -> TargetCells:
        """Return some of the cells, in that order."""
        batches = None if self.batches is None else self.batches[cells]
        return TargetCells(self.name, self.adata[cells].copy(), self.labels[cells], batches)


@dataclass(frozen=True)
class Corpus:
    """The cells that models are pretrained on.

    Attributes
    ----------
    name
        Of the sets.
    adata
        Whole counts; all genes of any set, ``obs["batch"]`` the set, ``obs["label"]`` empty.
    """

    name: str
    adata: AnnData

    @cached_property
    def digest(self) -> str:
        """Checksum of the cells."""
        return digest(self.adata)[:16]


def read_target(
    target: Data, label: str, batch: str | None = None, layer: str | None = None, no_label: Sequence[str] = ()
) -> TargetCells:
    """Return the cells that have a label and a count.

    Parameters
    ----------
    target
        AnnData, the path of an h5ad file, or one of them by name.
    label, batch
        ``obs`` columns.
    layer
        Layer of raw counts; default: ``X``.
    no_label
        Labels that name nothing. Cells with them, or without a label, are left out.

    Raises
    ------
    FileNotFoundError, KeyError, TypeError, ValueError
        If something is not there, values are no counts, or there are fewer than two labels.
    """
    named = read_named(target, "target")
    if len(named) != 1:
        raise ValueError(f"There is one target, found {len(named)}: {', '.join(named)}. Run the command for each.")
    ((name, adata),) = named.items()
    if label == batch:
        raise ValueError(f"{label!r} is named as label and as batch. Labels must stay out of training: name another.")
    for what, column in (("label", label), ("batch", batch)):
        if column is not None and column not in adata.obs:
            raise missing_key("obs", column, adata.obs.columns, f"Name the column of the {what}.", name)
    labels = text_of(adata.obs[label])
    cells = counts_only(name, adata, layer)
    has = np.array([one is not None and one not in set(map(str, no_label)) for one in labels], dtype=bool)
    warn_of_words(labels[has], "label", label)
    kept = np.flatnonzero(has & (np.asarray(cells.X.sum(axis=1)).ravel() > 0))
    found = sorted(set(labels[kept]))
    if not 2 <= len(found) < len(kept):
        raise ValueError(
            f"{name!r}: {len(kept)} cells with counts have a label obs[{label!r}], of {len(found)} kinds "
            f"({', '.join(found[:5]) or 'none'}). Two or more are needed, and fewer than there are cells."
        )
    batches = None
    if batch is not None:
        batches = _batches(name, adata, batch)[kept]
    cells = cells[kept].copy()
    if batches is not None:
        cells.obs[BATCH] = pd.Categorical(batches)
    return TargetCells(name, cells, labels[kept], batches)


def _batches(name: str, adata: AnnData, batch: str) -> np.ndarray:
    column = adata.obs[batch]
    if column.isna().any():
        raise ValueError(
            f"{name!r}: {column.isna().sum()} cells have no batch obs[{batch!r}], first "
            f"{column.index[column.isna()][0]!r}. Fill it in, or leave these cells out."
        )
    return text_of(column)


def read_corpus(pretrain: Data, target: TargetCells, layer: str | None = None) -> Corpus:
    """Return sets to pretrain on as one: all genes of any of them.

    A gene that a set did not measure counts as not expressed in its cells; Cell-JEPA sees expressed genes alone.

    Raises
    ------
    FileNotFoundError, KeyError, TypeError, ValueError
        If something is not there, values are no counts, or a set has no gene of the target.
    """
    import anndata as ad

    parts = {}
    for name, adata in read_named(pretrain, "pretraining").items():
        cells = counts_only(name, adata, layer)
        if not cells.var_names.isin(target.adata.var_names).any():
            sides = [f"{', '.join(names[:3])}, ..." for names in (cells.var_names, target.adata.var_names)]
            raise ValueError(
                f"{name!r} has no gene of the target {target.name!r} ({sides[0]} against {sides[1]}). Gene names must "
                "be of one kind and one species; without sets to pretrain on, models are trained on the target itself."
            )
        cells = cells[np.asarray(cells.X.sum(axis=1)).ravel() > 0].copy()
        if cells.n_obs == 0:
            raise ValueError(f"{name!r} has no cell with a count.")
        parts[name] = cells
    joined = ad.concat(parts, join="outer", label=BATCH, fill_value=0, index_unique="-")
    joined.X = joined.X.tocsr().astype(np.int32)
    return Corpus(" + ".join(parts), without_labels(joined))


def without_labels(adata: AnnData) -> AnnData:
    """Return the cells with an empty column of labels, so that a model set up on them can be fine-tuned later."""
    adata.obs[LABEL] = pd.Categorical([None] * adata.n_obs, categories=[])
    return adata


def corpus_of(cells: TargetCells) -> Corpus:
    """Return cells of the target to pretrain on, where no other sets were named."""
    adata = cells.adata.copy()
    adata.obs = pd.DataFrame(index=adata.obs_names)
    return Corpus(cells.name, without_labels(adata))
