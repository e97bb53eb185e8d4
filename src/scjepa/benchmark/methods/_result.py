"""What a method gives back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse

PARTS = ("embedding", "clusters", "cell_embedding")
"""What a method may give, an array for all cells each."""

_LEAST_SPREAD, _MOST_SPREAD = 1e-15, 1e15
"""Spreads between which squared distances are float32 numbers that are neither 0 nor infinite."""


@dataclass(frozen=True)
class MethodResult:
    """The outcome of one method on one data set: an embedding, clusters, both, or the reason why there is neither.

    Attributes
    ----------
    method
        Name in :data:`scjepa.benchmark.METHODS`.
    settings
        ``"tutorial"`` (the method's own) or ``"same graph"`` (the spatial graph of the data).
    seed
        Seed of the run.
    embedding
        ``(n_cells, n_dims)`` float32 in the order of the cells, or ``None``.
    clusters
        ``(n_cells,)`` the method's own niches as text, or ``None``; ``(n_cells, n)`` of a method that was given several
        ``resolutions``.
    cell_embedding
        ``(n_cells, n_dims)`` float32 at the scale of cells, for methods that have one beside that of neighborhoods.
    seconds
        Wall time of the method alone, in seconds; starting an interpreter, importing packages and reading the data
        do not count. NaN where the method did not finish.
    cpu_seconds
        Processor time of the same, over all threads: what remains comparable where others use the machine too.
    peak_gib
        Peak memory in GiB of the process that ran the method: for a method in a process of its own everything it
        loaded, for one in this session the session's other memory too. NaN where it is not known.
    versions
        Versions of the packages the method rests on, by name; ``"python"`` is the interpreter's.
    info
        What the method did: epochs, graph, dimensions.
    error
        Why there is no result, or ``None``.
    cached
        Whether the result was read from the cache.
    """

    method: str
    settings: str
    seed: int
    embedding: np.ndarray | None = None
    clusters: np.ndarray | None = None
    cell_embedding: np.ndarray | None = None
    seconds: float = float("nan")
    cpu_seconds: float = float("nan")
    peak_gib: float = float("nan")
    versions: Mapping[str, str] = field(default_factory=dict)
    info: Mapping[str, Any] = field(default_factory=dict)
    error: str | None = None
    cached: bool = False

    @property
    def ok(self) -> bool:
        """Whether there is an embedding or clusters."""
        return self.error is None

    def to_row(self) -> dict[str, Any]:
        """Return a row of a table: all but the arrays, ``info`` as JSON, ``versions`` as ``name=version`` words."""
        return {
            "method": self.method,
            "settings": self.settings,
            "seed": self.seed,
            "seconds": self.seconds,
            "cpu_seconds": self.cpu_seconds,
            "peak_gib": self.peak_gib,
            "error": self.error,
            "info": json.dumps(dict(self.info), default=str),
            "versions": " ".join(f"{name}={version}" for name, version in self.versions.items()),
        }


class MethodError(Exception):
    """A method gave no result; the message is the reason that goes into the row."""


def checked(output: Mapping[str, Any], n_cells: int) -> dict[str, np.ndarray | None]:
    """Return embeddings and clusters in their final types.

    Raises
    ------
    MethodError
        If there is neither, or one has the wrong shape, NaN, infinite values, or values whose distances are lost in
        32 bits, or clusters are numbers that are not whole.
    """
    embedding, clusters, cells = output.get("embedding"), output.get("clusters"), output.get("cell_embedding")
    if embedding is None and clusters is None:
        raise MethodError("The method gave neither an embedding nor clusters.")
    if clusters is not None:
        clusters = np.asarray(clusters)
        if clusters.ndim not in (1, 2) or len(clusters) != n_cells:
            raise MethodError(f"The clusters have the shape {clusters.shape}; the data have {n_cells} cells.")
        missing = pd.isna(clusters).reshape(n_cells, -1).any(axis=1)
        if missing.any():
            raise MethodError(f"{missing.sum()} of {n_cells} cells have no cluster (NaN), as row {missing.argmax()}.")
        part = _no_cluster(clusters)
        if part is not None:
            raise MethodError(
                f"The method returned {part:.6g} for a cell, no whole number. An embedding has the shape (n_cells, "
                "n_dims), of one dimension too: values[:, None]; clusters are whole numbers or names."
            )
        clusters = clusters.astype(str)
    return {
        "embedding": None if embedding is None else _checked_embedding(embedding, n_cells),
        "clusters": clusters,
        "cell_embedding": None if cells is None else _checked_embedding(cells, n_cells),
    }


def _no_cluster(clusters: np.ndarray) -> float | None:
    """Return a value that no cluster has: a number that is not whole."""
    if clusters.dtype == object:
        values = [value for value in clusters.ravel() if isinstance(value, float | np.floating)]
        clusters = np.asarray(values, dtype=np.float64)
    if not np.issubdtype(clusters.dtype, np.floating):
        return None
    values = clusters[clusters != np.floor(clusters)]  # infinite ones are whole
    return float(values.flat[0]) if values.size else None


def _checked_embedding(values: Any, n_cells: int) -> np.ndarray:
    if sparse.issparse(values) or (isinstance(values, np.ndarray) and values.shape == () and values.dtype == object):
        raise MethodError("The embedding is no array of numbers; a sparse matrix becomes one by .toarray().")
    embedding = np.asarray(values)
    if not np.issubdtype(embedding.dtype, np.number):
        raise MethodError(f"The embedding holds {embedding.dtype}, not numbers.")
    if embedding.ndim != 2 or len(embedding) != n_cells or not embedding.shape[1]:
        raise MethodError(f"The embedding has the shape {embedding.shape}; the data have {n_cells} cells.")
    with np.errstate(over="ignore"):  # what becomes infinite is told below
        embedding = embedding.astype(np.float32)
    bad = ~np.isfinite(embedding).all(axis=1)
    if bad.any():
        raise MethodError(
            f"{bad.sum()} of {n_cells} cells have NaN or infinite values in the embedding, as row {bad.argmax()}."
        )
    spread = float(np.ptp(embedding.astype(np.float64), axis=0).max())
    if spread and not _LEAST_SPREAD < spread < _MOST_SPREAD:
        raise MethodError(
            f"The embedding spreads over {spread:.2g}, and distances in it are lost in 32 bits. Scale it, as to a "
            "standard deviation of 1: no score depends on the scale."
        )
    return embedding
