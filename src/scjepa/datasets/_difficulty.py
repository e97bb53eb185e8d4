"""The knobs that make niches easy or hard to find, three frozen settings of them, and a fingerprint of the output."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from scjepa._core.checks import POSITIVE, check_fields, within
from scjepa._core.keys import CELL_TYPE, REGION, SECTION, SPATIAL, TECHNOLOGY
from scjepa._core.options import unknown_name
from scjepa._core.plain import take_plain

if TYPE_CHECKING:
    from anndata import AnnData


@dataclass(frozen=True)
class Difficulty:
    """How visible niches are in composition and expression, and how much noise covers them.

    Parameters
    ----------
    niche_effect
        Mean log fold change of a niche gene in its niches, in the cell types that respond.
    niche_genes
        Share of genes that depend on the niche.
    opposed
        Share of a niche gene's responding cell types that go down where the others go up. At 0.5 the responses
        cancel in the mean over a neighborhood of mixed types: the niche is in the pairing of type and gene.
    mix_sharpness
        Spread of the log abundances of cell types between niches; 0: every niche has the same mix.
    type_effect
        Mean log fold change of a marker gene in its cell types.
    capture
        Share of a cell's transcripts that are counted; about ``2 * capture`` counts per gene and cell.
    background
        Share of a cell's counts that come from the tissue's mean profile instead of the cell (ambient, spill-over).
    dispersion
        Overdispersion of the negative binomial: variance = mean + dispersion · mean². 0: Poisson.
    depth_spread
        Standard deviation of a cell's log depth.
    batch_effect
        Standard deviation of the log multiplier of each gene in each section.
    technology_effect
        Standard deviation of the log multiplier of each gene in each technology.
    gradient
        Standard deviation of the log multiplier of each gene that drifts smoothly across a section, with directions
        of its own in each section (uneven permeabilization or imaging): it says nothing about niches.
    """

    niche_effect: float
    niche_genes: float
    opposed: float
    mix_sharpness: float
    type_effect: float
    capture: float
    background: float
    dispersion: float
    depth_spread: float
    batch_effect: float
    technology_effect: float
    gradient: float

    def __post_init__(self) -> None:
        for name in self.__dataclass_fields__:
            if not (np.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise ValueError(f"Difficulty.{name} must be a number of at least 0, found {getattr(self, name)!r}.")
        take_plain(self)
        check_fields(self, within(0.0, 1.0), "niche_genes", "opposed", "background", "capture")
        check_fields(self, POSITIVE, "capture")


DIFFICULTIES: Mapping[str, Difficulty] = MappingProxyType(
    {
        "easy": Difficulty(
            niche_effect=2.0,
            niche_genes=0.35,
            opposed=0.0,
            mix_sharpness=1.5,
            type_effect=1.5,
            capture=0.5,
            background=0.05,
            dispersion=0.2,
            depth_spread=0.25,
            batch_effect=0.02,
            technology_effect=0.2,
            gradient=0.0,
        ),
        "medium": Difficulty(
            niche_effect=1.6,
            niche_genes=0.3,
            opposed=0.1,
            mix_sharpness=1.2,
            type_effect=1.5,
            capture=0.4,
            background=0.08,
            dispersion=0.3,
            depth_spread=0.3,
            batch_effect=0.06,
            technology_effect=0.3,
            gradient=0.05,
        ),
        "hard": Difficulty(
            niche_effect=1.4,
            niche_genes=0.25,
            opposed=0.3,
            mix_sharpness=0.3,
            type_effect=2.0,
            capture=0.25,
            background=0.1,
            dispersion=0.4,
            depth_spread=0.4,
            batch_effect=0.5,
            technology_effect=0.5,
            gradient=0.05,
        ),
    }
)
"""The named difficulties. A test holds the hash of what each one gives, so recipes tuned on them stay comparable;
``benchmarks/simulation/difficulty.csv`` holds what neighborhood PCA finds in each. At ``"easy"`` it finds nearly
everything. At ``"hard"`` cell types and sections drown the niche genes, which answer in reverse in some types, so it
finds hardly more than in tissue without niches, while a probe that is told the labels of other sections finds most."""


def resolve_difficulty(difficulty: str | Difficulty) -> Difficulty:
    """Return the :class:`Difficulty` that is named, or given."""
    if isinstance(difficulty, Difficulty):
        return difficulty
    if difficulty not in DIFFICULTIES:
        raise ValueError(
            unknown_name("difficulty", difficulty, DIFFICULTIES)
            + " For a setting of your own: dataclasses.replace(scjepa.datasets.DIFFICULTIES['medium'], capture=0.1)."
        )
    return DIFFICULTIES[difficulty]


def fingerprint(adata: AnnData) -> str:
    """Return the sha256 of a tissue: counts, labels and coordinates (to 0.01 of their unit), as integers.

    Equal fingerprints mean equal cells, whatever the version of the file format, the index type of the matrix or
    the last bit of a coordinate.
    """
    X = adata.X.tocsr()
    parts = [np.asarray(adata.shape), X.indptr, X.indices, X.data, np.rint(100 * adata.obsm[SPATIAL])]
    parts += [adata.obs[key].cat.codes for key in (SECTION, TECHNOLOGY, REGION, CELL_TYPE)]
    digest = hashlib.sha256()
    for part in parts:
        digest.update(np.ascontiguousarray(part, dtype="<i8").tobytes())
    return digest.hexdigest()
