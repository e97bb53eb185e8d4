"""From a method and the cells that it may be fitted on to functions that embed cells, one for each read-out."""

from __future__ import annotations

import inspect
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from anndata import AnnData

from scjepa.benchmark._harmony import harmony
from scjepa.benchmark.cells._baselines import Embed, fit_scvi, pca_on_hvg, scvi_embedder
from scjepa.benchmark.cells._data import BATCH, Corpus, TargetCells, corpus_of
from scjepa.benchmark.cells._methods import FITTED, OWN, ZERO_SHOT
from scjepa.benchmark.cells._plan import CellEntry
from scjepa.benchmark.cells._pretrained import Pretraining, embedder
from scjepa.benchmark.cells._scoring import PLAIN, CellScoring
from scjepa.benchmark.methods._result import _checked_embedding

if TYPE_CHECKING:
    from scjepa.celljepa.model import CellJEPA


@dataclass
class Took:
    """Time of the method alone: pretraining, fitting and embedding, not scoring. In seconds."""

    seconds: float = 0.0
    cpu_seconds: float = 0.0

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Add what happens inside."""
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        self.add(time.perf_counter() - wall, time.process_time() - cpu)

    def add(self, seconds: float, cpu_seconds: float) -> None:
        """Add what was counted elsewhere."""
        self.seconds += seconds
        self.cpu_seconds += cpu_seconds


@dataclass
class Bench:
    """What runs share.

    Attributes
    ----------
    target
        The cells that are scored.
    corpus
        The cells to pretrain on; ``None``: those of the target that a method may be fitted on.
    scoring
        How results are read out and scored.
    pretraining
        Models.
    """

    target: TargetCells
    corpus: Corpus | None
    scoring: CellScoring
    pretraining: Pretraining
    _corpora: dict[str, Corpus] = field(default_factory=dict, repr=False)
    _embedded: dict[tuple, tuple[np.ndarray, Took]] = field(default_factory=dict, repr=False)
    """The target's embeddings by Cell-JEPA's models, which several tasks ask for, and what they took."""

    def corpus_for(self, fit: TargetCells) -> Corpus:
        """Return the cells to pretrain on where a method may be fitted on ``fit``."""
        if self.corpus is not None:
            return self.corpus
        return self._corpora.setdefault(fit.digest, corpus_of(fit))

    def embedders(
        self, entry: CellEntry, seed: int, fit: TargetCells, took: Took, *, integrate: bool = False
    ) -> dict[str, Embed]:
        """Return what embeds cells, by read-out.

        Parameters
        ----------
        entry
            The method.
        seed
            Its seed.
        fit
            Cells that it may be fitted on; their labels are not used.
        took
            Time is added to it.
        integrate
            Whether methods that can are to integrate batches.
        """
        if entry.settings == OWN:
            return {PLAIN: _timed(_own(entry, seed), took)}
        if entry.settings == FITTED:
            with took.counting():
                embed = _fitted(entry, seed, fit.adata, integrate)
            return {PLAIN: _timed(embed, took)}
        corpus = self.corpus_for(fit)
        taken = self.pretraining.model(entry, corpus, seed)
        took.add(taken.seconds, taken.cpu_seconds)
        about = (entry.name, entry.code(ZERO_SHOT), seed, corpus.digest)
        return {name: self._remembered(taken.model, (*about, name), took) for name in self.scoring.readouts}

    def _remembered(self, model: CellJEPA, about: tuple, took: Took) -> Embed:
        """Return the function that embeds cells, the target once for all tasks."""
        embed = embedder(model, self.scoring, about[-1])

        def remembered(adata: AnnData) -> np.ndarray:
            if adata is not self.target.adata:
                return _timed(embed, took)(adata)
            if about not in self._embedded:
                own = Took()
                self._embedded[about] = (_timed(embed, own)(adata), own)
            embedding, own = self._embedded[about]
            took.add(own.seconds, own.cpu_seconds)
            return embedding

        return remembered


def _timed(embed: Embed, took: Took) -> Embed:
    """Return the function, its time counted and its result checked."""

    def timed(adata: AnnData) -> np.ndarray:
        with took.counting():
            found = embed(adata)
        return _checked_embedding(found, adata.n_obs)

    return timed


def _own(entry: CellEntry, seed: int) -> Embed:
    """Return one's own function; it gets a copy, and the seed where it has a parameter of that name."""
    function = entry.function
    if function is None:
        raise TypeError(f"The method {entry.name!r} has no function.")
    more = {"seed": seed} if "seed" in inspect.signature(function).parameters else {}
    return lambda adata: function(adata.copy(), **more)


def _fitted(entry: CellEntry, seed: int, fit: AnnData, integrate: bool) -> Embed:
    options: Mapping[str, Any] = entry.options
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if entry.name == "scvi":
            return scvi_embedder(fit_scvi(fit, seed, batch_key=BATCH if integrate else None, **options))
        embed = pca_on_hvg(fit, seed, **options)
    if entry.name == "harmony":
        return lambda adata: harmony(embed(adata), adata.obs[BATCH].to_numpy(), seed)
    return embed
