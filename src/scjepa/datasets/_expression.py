"""Which genes a cell expresses, and the counts a technology reports of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import sparse

from scjepa._core.keys import as_key
from scjepa.datasets._random import Stream, generator
from scjepa.datasets._spec import TechnologySpec, TissueSpec
from scjepa.datasets._tissue import Cells, SmoothField

if TYPE_CHECKING:
    from numpy.typing import NDArray

_TRANSCRIPTS = 2.0
"""Mean transcripts per gene and cell, before capture."""

_ABUNDANCE_SPREAD = 1.0
"""Standard deviation of the log abundance of genes."""

_MARKERS = 0.5
"""Share of genes that mark cell types; the rest, less the niche genes, is housekeeping."""

_RESPONDING = 0.7
"""Share of cell types that respond to the niche, for each niche gene."""

_N_GRADIENTS = 2
"""Smooth drifts of each section."""

_GRADIENT_WAVELENGTH = 1.5
"""Wavelength of a drift, in radii of the section."""

_BLOCK_VALUES = 2**20
"""Dense values sampled at a time: the memory bound, and part of what the seed fixes."""

ROLES = ("housekeeping", "type", "niche")
"""Roles of genes in ``var["role"]``: expressed everywhere; marks cell types; depends on type and niche."""


@dataclass(frozen=True)
class Program:
    """The log expression of every type in every niche: ``base + type_effect[t] + response[t] * niche_effect[k]``.

    Attributes
    ----------
    base
        (n_genes,) log transcripts per cell.
    type_effect
        (n_cell_types, n_genes) log fold changes.
    niche_effect
        (n_niches, n_genes) log fold changes, non-zero for niche genes in their niches.
    response
        (n_cell_types, n_genes) how a type responds to the niche: 1 as the niche says, 0 not, -1 in reverse.
    role
        (n_genes,) codes into :data:`ROLES`.
    ambient
        (n_genes,) mean transcripts over the tissue's cells.
    """

    base: NDArray[np.float64]
    type_effect: NDArray[np.float64]
    niche_effect: NDArray[np.float64]
    response: NDArray[np.float64]
    role: NDArray[np.int64]
    ambient: NDArray[np.float64]

    @classmethod
    def draw(cls, spec: TissueSpec, composition: NDArray[np.float64]) -> Program:
        """Draw the genes of a tissue whose niches have the given (n_niches, n_cell_types) ``composition``."""
        n_niches, n_types = composition.shape
        rng, knobs, n_genes = generator(spec.seed, Stream.GENES), spec.difficulty, spec.n_genes
        n_niche_genes = round(knobs.niche_genes * n_genes)
        n_markers = min(round(_MARKERS * n_genes), n_genes - n_niche_genes)
        role = np.repeat([2, 1, 0], [n_niche_genes, n_markers, n_genes - n_niche_genes - n_markers])
        role = rng.permutation(role)
        base = rng.normal(0, _ABUNDANCE_SPREAD, n_genes)
        type_effect = _fold_changes(rng, n_types, n_genes, knobs.type_effect) * np.array([0, 1, 0.5])[role]
        niche_effect = _fold_changes(rng, n_niches, n_genes, knobs.niche_effect) * (role == 2)
        sign = np.where(rng.uniform(size=(n_types, n_genes)) < knobs.opposed, -1.0, 1.0)
        response = np.where(rng.uniform(size=(n_types, n_genes)) < _RESPONDING, sign, 0.0) * (role == 2)
        ambient = np.zeros(n_genes)
        for cell_type, share in enumerate(composition.mean(axis=0)):
            log_mean = base + type_effect[cell_type] + response[cell_type] * niche_effect
            weights = composition[:, cell_type] / max(composition[:, cell_type].sum(), 1e-300)
            ambient += share * (weights @ np.exp(log_mean))
        scale = _TRANSCRIPTS / ambient.mean()
        return cls(base + np.log(scale), type_effect, niche_effect, response, role, ambient * scale)

    def transcripts(self, cell_types: NDArray[np.int64], niches: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the (n, n_genes) mean transcripts of cells of the given types in the given niches."""
        log_mean = self.response[cell_types]
        log_mean *= self.niche_effect[niches]
        log_mean += self.type_effect[cell_types]
        log_mean += self.base
        return np.exp(log_mean, out=log_mean)


def _fold_changes(rng: np.random.Generator, n_groups: int, n_genes: int, size: float) -> NDArray[np.float64]:
    """Return (n_groups, n_genes) log fold changes: each gene is up in one group or a few, up to about a third."""
    order = rng.permuted(np.tile(np.arange(n_groups)[:, None], (1, n_genes)), axis=0)
    n_up = rng.integers(1, max(1, min(n_groups // 4 + 1, n_groups - 1)), n_genes, endpoint=True)
    return np.where(order < n_up, size * rng.uniform(0.6, 1.4, (n_groups, n_genes)), 0.0)


def draw_panels(spec: TissueSpec, genes: pd.Index) -> pd.DataFrame:
    """Return the genes × technologies table of which technology measures which gene.

    Technologies without a panel of their own share ``round(panel_overlap * n_genes)`` genes, and the rest is dealt
    among them: ``panel_overlap`` is the Jaccard index of any two of them when there are two.
    """
    order = generator(spec.seed, Stream.PANEL).permutation(spec.n_genes)
    n_shared = round(spec.panel_overlap * spec.n_genes)
    dealt = [i for i, technology in enumerate(spec.technologies) if technology.genes is None]
    measured = np.zeros((spec.n_genes, len(spec.technologies)), dtype=bool)
    for i, technology in enumerate(spec.technologies):
        if technology.genes is None:
            measured[order[:n_shared], i] = True
            measured[order[n_shared + dealt.index(i) :: len(dealt)], i] = True
        elif not isinstance(technology.genes, float | int):
            measured[_positions(technology, genes), i] = True
        else:
            drawn = generator(spec.seed, Stream.PANEL, i).permutation(spec.n_genes)
            measured[drawn[: round(technology.genes * spec.n_genes)], i] = True
        if not measured[:, i].any():
            raise ValueError(f"technology {technology.name!r} measures no gene; raise its genes or n_genes.")
    return pd.DataFrame(measured, index=genes, columns=[as_key(technology.name) for technology in spec.technologies])


def _positions(technology: TechnologySpec, genes: pd.Index) -> NDArray[np.int64]:
    wanted = pd.Index(technology.genes)
    positions = genes.get_indexer(wanted)
    if (positions < 0).any():
        raise KeyError(
            f"technology {technology.name!r}: {int((positions < 0).sum())} of its genes are not simulated, such as "
            f"{wanted[positions < 0][0]!r}; names run from {genes[0]!r} to {genes[-1]!r}."
        )
    return positions


@dataclass(frozen=True)
class Assay:
    """How one section is measured: its technology, its panel and what multiplies each gene.

    Attributes
    ----------
    technology
        Position of the technology.
    measured
        (n_genes,) bool.
    log_multiplier
        (n_genes,) log of the capture and of the batch and technology effects.
    background, dispersion, depth_spread
        As in :class:`Difficulty`.
    drifts
        Smooth fields over the section, in radii.
    loadings
        (n_drifts, n_genes) how much of each drift a gene takes; no rows where there is no gradient.
    """

    technology: int
    measured: NDArray[np.bool_]
    log_multiplier: NDArray[np.float64]
    background: float
    dispersion: float
    depth_spread: float
    drifts: tuple[SmoothField, ...]
    loadings: NDArray[np.float64]

    @classmethod
    def draw(cls, spec: TissueSpec, section: int, panels: pd.DataFrame) -> Assay:
        """Draw the assay of ``section``."""
        knobs, index = spec.difficulty, spec.technology_of(section)
        technology = spec.technologies[index]
        rng = generator(spec.seed, Stream.TECHNOLOGY_EFFECT, index)
        log_multiplier = _log_multipliers(rng, knobs.technology_effect, spec.n_genes)
        rng = generator(spec.seed, Stream.SECTION_EFFECT, section)
        log_multiplier += _log_multipliers(rng, _or(technology.batch_effect, knobs.batch_effect), spec.n_genes)
        log_multiplier += np.log(_or(technology.capture, knobs.capture))
        n_drifts = _N_GRADIENTS if knobs.gradient > 0 else 0
        return cls(
            technology=index,
            measured=panels.iloc[:, index].to_numpy(),
            log_multiplier=log_multiplier,
            background=_or(technology.background, knobs.background),
            dispersion=_or(technology.dispersion, knobs.dispersion),
            depth_spread=knobs.depth_spread,
            drifts=tuple(SmoothField.draw(rng, _GRADIENT_WAVELENGTH) for _ in range(n_drifts)),
            loadings=rng.normal(0, knobs.gradient / np.sqrt(_N_GRADIENTS), (n_drifts, spec.n_genes)),
        )

    def sample(
        self, rng: np.random.Generator, transcripts: NDArray[np.float64], drift: NDArray[np.float64], program: Program
    ) -> sparse.csr_matrix:
        """Return csr int32 counts of cells with the given (n, n_genes) mean ``transcripts`` and (n, n_drifts) drift.

        Genes outside the panel are drawn too and then dropped, so a panel hides counts and changes none.
        """
        mean = (1 - self.background) * transcripts
        mean += self.background * program.ambient
        depth = rng.normal(-(self.depth_spread**2) / 2, self.depth_spread, (len(mean), 1))
        log_factor = self.log_multiplier + depth
        log_factor += drift @ self.loadings
        mean *= np.exp(log_factor, out=log_factor)
        if self.dispersion > 0:
            mean *= self.dispersion * rng.standard_gamma(1 / self.dispersion, mean.shape)
        return _to_csr(rng.poisson(mean) * self.measured)


def sample_section(
    spec: TissueSpec, section: int, cells: Cells, program: Program, panels: pd.DataFrame
) -> Iterator[sparse.csr_matrix]:
    """Yield the counts of a section in blocks of rows; a block's stream is its own, so memory is bounded by one."""
    assay = Assay.draw(spec, section, panels)
    drift = np.zeros((len(cells.rows), len(assay.drifts)))
    if assay.drifts:
        centered = cells.coordinates[:, :2] - cells.coordinates[:, :2].mean(axis=0)
        centered /= max(np.sqrt(2 * centered.var(axis=0).sum()), 1e-12)
        drift = np.stack([field(centered) for field in assay.drifts], axis=1)
    size = block_size(spec.n_genes)
    for block, start in enumerate(range(0, len(cells.rows), size)):
        rows = slice(start, start + size)
        transcripts = program.transcripts(cells.cell_types[rows], cells.niches[rows])
        yield assay.sample(generator(spec.seed, Stream.COUNTS, section, block), transcripts, drift[rows], program)


def block_size(n_genes: int) -> int:
    """Return the cells that are sampled at a time."""
    return max(64, _BLOCK_VALUES // n_genes)


def stack_counts(blocks: Iterable[sparse.csr_matrix], n_genes: int) -> sparse.csr_matrix:
    """Return the blocks on top of one another, without holding them and the result in full at once."""
    parts = list(blocks)
    indptr = np.concatenate([[0], np.cumsum(np.concatenate([np.diff(part.indptr) for part in parts]), dtype=np.int64)])
    index_type = np.int32 if indptr[-1] <= np.iinfo(np.int32).max else np.int64
    data, indices = np.empty(indptr[-1], dtype=np.int32), np.empty(indptr[-1], dtype=index_type)
    end = int(indptr[-1])
    while parts:  # from the end, so that each block is freed once it is copied
        part = parts.pop()
        data[end - part.nnz : end], indices[end - part.nnz : end] = part.data, part.indices
        end -= part.nnz
    return sparse.csr_matrix((data, indices, indptr.astype(index_type)), shape=(len(indptr) - 1, n_genes))


def _to_csr(counts: NDArray[np.int64]) -> sparse.csr_matrix:
    rows, columns = np.nonzero(counts)
    indptr = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=len(counts)))])
    data = counts[rows, columns].astype(np.int32)
    return sparse.csr_matrix((data, columns.astype(np.int32), indptr.astype(np.int32)), shape=counts.shape)


def _log_multipliers(rng: np.random.Generator, spread: float, n: int) -> NDArray[np.float64]:
    """Return ``n`` logs of log-normal factors with mean 1."""
    return rng.normal(-(spread**2) / 2, spread, n)


def _or(value: float | None, default: float) -> float:
    return default if value is None else value
