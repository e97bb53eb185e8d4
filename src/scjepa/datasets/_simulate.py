"""Simulated tissue as AnnData: which genes cells express and the counts of them; and shallower counts of real cells."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import ArrayLike, NDArray
from scipy import sparse

from scjepa._core.anndata import counts_of, require_anndata
from scjepa._core.counts import NAN, OTHER, advice_on, read_counts
from scjepa._core.keys import CELL_TYPE, REGION, SECTION, SPATIAL, TECHNOLOGY, as_key
from scjepa.datasets._tissue import (
    Cells,
    Difficulty,
    Geometry,
    GivenTissue,
    SimulatedTissue,
    SmoothField,
    Stream,
    Technologies,
    TechnologySpec,
    TissueSpec,
    generator,
    read_map,
    resolve_difficulty,
    resolve_technologies,
)

_DEFAULTS = {"n_cells": 5000, "n_sections": 3, "n_niches": 6, "n_cell_types": 12}
"""Sizes where neither the caller nor given labels say; the difficulties were measured at these."""


_MEASURED = "measured"
"""``varm`` key of the genes × technologies table that tells "not measured" from "zero"."""

_SIMULATION = "scjepa_simulation"
"""``uns`` key of the specification a tissue was simulated from."""

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


def _effects(spec: TissueSpec, section: int) -> tuple[NDArray[np.float64], list[SmoothField], NDArray[np.float64]]:
    """Return what multiplies each gene of ``section``.

    Returns
    -------
    tuple
        (n_genes,) log of the capture and of the batch and technology effects; smooth fields over the section, in radii;
        and (n_fields, n_genes) how much of each field a gene takes, no field where there is no gradient.
    """
    knobs, index = spec.difficulty, spec.technology_of(section)
    technology = spec.technologies[index]
    rng = generator(spec.seed, Stream.TECHNOLOGY_EFFECT, index)
    log_multiplier = _log_multipliers(rng, knobs.technology_effect, spec.n_genes)
    rng = generator(spec.seed, Stream.SECTION_EFFECT, section)
    log_multiplier += _log_multipliers(rng, _or(technology.batch_effect, knobs.batch_effect), spec.n_genes)
    log_multiplier += np.log(_or(technology.capture, knobs.capture))
    fields = [SmoothField.draw(rng, _GRADIENT_WAVELENGTH) for _ in range(_N_GRADIENTS if knobs.gradient > 0 else 0)]
    loadings = rng.normal(0, knobs.gradient / np.sqrt(_N_GRADIENTS), (len(fields), spec.n_genes))
    return log_multiplier, fields, loadings


def _sample_section(
    spec: TissueSpec, section: int, cells: Cells, program: Program, panels: pd.DataFrame
) -> Iterator[sparse.csr_matrix]:
    """Yield the csr int32 counts of a section in blocks of rows.

    A block's stream is its own, so memory is bounded by one. Genes outside the panel are drawn too and then dropped, so
    a panel hides counts and changes none.
    """
    knobs, index = spec.difficulty, spec.technology_of(section)
    technology, measured = spec.technologies[index], panels.iloc[:, index].to_numpy()
    background, dispersion = _or(technology.background, knobs.background), _or(technology.dispersion, knobs.dispersion)
    log_multiplier, fields, loadings = _effects(spec, section)
    drift = np.zeros((len(cells.rows), len(fields)))
    if fields:
        centered = cells.coordinates[:, :2] - cells.coordinates[:, :2].mean(axis=0)
        centered /= max(np.sqrt(2 * centered.var(axis=0).sum()), 1e-12)
        drift = np.stack([field(centered) for field in fields], axis=1)
    size = block_size(spec.n_genes)
    for block, start in enumerate(range(0, len(cells.rows), size)):
        rows, rng = slice(start, start + size), generator(spec.seed, Stream.COUNTS, section, block)
        mean = (1 - background) * program.transcripts(cells.cell_types[rows], cells.niches[rows])
        mean += background * program.ambient
        log_factor = log_multiplier + rng.normal(-(knobs.depth_spread**2) / 2, knobs.depth_spread, (len(mean), 1))
        log_factor += drift[rows] @ loadings
        mean *= np.exp(log_factor, out=log_factor)
        if dispersion > 0:
            mean *= dispersion * rng.standard_gamma(1 / dispersion, mean.shape)
        yield sparse.csr_matrix((rng.poisson(mean) * measured).astype(np.int32))


def block_size(n_genes: int) -> int:
    """Return the cells that are sampled at a time."""
    return max(64, _BLOCK_VALUES // n_genes)


def _stack_counts(blocks: Iterable[sparse.csr_matrix], n_genes: int) -> sparse.csr_matrix:
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


def _log_multipliers(rng: np.random.Generator, spread: float, n: int) -> NDArray[np.float64]:
    """Return ``n`` logs of log-normal factors with mean 1."""
    return rng.normal(-(spread**2) / 2, spread, n)


def _or(value: float | None, default: float) -> float:
    return default if value is None else value


def simulated_tissue(
    n_cells: int | None = None,
    *,
    n_sections: int | None = None,
    n_niches: int | None = None,
    n_cell_types: int | None = None,
    n_genes: int = 200,
    technologies: Technologies = ("A",),
    panel_overlap: float = 1.0,
    difficulty: str | Difficulty = "medium",
    geometry: Geometry | None = None,
    coordinates: ArrayLike | None = None,
    labels: ArrayLike | pd.DataFrame | None = None,
    seed: int = 0,
) -> AnnData:
    """Simulate tissue with planted niches, or simulate counts on the geometry of a real one.

    Each section has an outline and niches with curved borders of its own; niches, cell types and genes are shared.
    A niche shows in the mix of its cell types and in genes whose expression depends on type and niche together.
    Counts are negative binomial, with the capture, the background and the panel of the section's technology, a
    multiplier of each gene in each technology and section, and a smooth drift across the section that has nothing to
    do with niches. A seed gives the same tissue, and a panel
    hides the counts of the genes it lacks without changing those of the others.

    Parameters
    ----------
    n_cells
        Cells in all sections together. Default 5,000, or as many as there are ``coordinates``.
    n_sections
        Sections, of equal size. Default 3, or those in ``labels``.
    n_niches
        Niches. Default 6, or those in ``labels``.
    n_cell_types
        Cell types. Default 12, or those in ``labels``.
    n_genes
        Genes of the tissue: the union of what the technologies can measure.
    technologies
        Names, :class:`TechnologySpec`, or a mapping of names to options such as ``{"A": {"capture": 0.3}, "B": {}}``.
        Sections take turns: the first is measured by the first technology, and so on.
    panel_overlap
        Share of the genes that all technologies measure; the others are dealt among them (1: one panel, 0: disjoint
        panels). It governs technologies whose own ``genes`` is ``None``.
    difficulty
        A name in :data:`DIFFICULTIES` (``"easy"``, ``"medium"``, ``"hard"``) or a :class:`Difficulty`.
    geometry
        Density, patches per niche and bend of the borders of simulated sections.
    coordinates
        (n_cells, 2) or (n_cells, 3) coordinates of real cells, in any unit; they are copied.
    labels
        What goes with ``coordinates``: the niche of each cell, or a DataFrame such as ``adata.obs`` with the column
        ``"region"`` and optionally ``"cell_type"`` and ``"section"``. Cell types that are not given are drawn.
    seed
        Fixes everything.

    Returns
    -------
    AnnData
        ``X``: csr int32 counts, 0 where a gene is not measured. ``obs``: categorical ``section``, ``technology``,
        ``region`` (the planted niche) and ``cell_type``. ``obsm["spatial"]``: float64, in µm (in the unit of
        ``coordinates`` where those are given). ``varm["measured"]``: bool, genes × technologies. ``var["role"]``:
        ``"niche"``, ``"type"`` or ``"housekeeping"``, and the planted log fold changes in ``varm["type_effect"]``
        (genes × cell types), ``varm["niche_effect"]`` (genes × niches) and ``varm["niche_response"]`` (genes × cell
        types; 1: the type follows the niche, 0: not, -1: reversed).
        ``uns["scjepa_simulation"]``: the resolved specification, the seed, and the order of niches and cell types.

    Raises
    ------
    ValueError
        If a number is out of range, contradicts ``labels``, or coordinates or labels are missing or not finite.
    KeyError
        If ``labels`` has no column ``"region"``, or a panel names a gene that is not simulated.

    Examples
    --------
    >>> import scjepa
    >>> adata = scjepa.datasets.simulated_tissue(2000, technologies=("A", "B"), panel_overlap=0.5, difficulty="easy")
    >>> float(adata.varm["measured"].all(axis=1).mean())
    0.5
    >>> real = scjepa.datasets.load("starmap_visual_cortex")  # doctest: +SKIP
    >>> scjepa.datasets.simulated_tissue(coordinates=real.obsm["spatial"], labels=real.obs)  # doctest: +SKIP
    """
    sizes = {"n_cells": n_cells, "n_sections": n_sections, "n_niches": n_niches, "n_cell_types": n_cell_types}
    kinds, knobs = resolve_technologies(technologies), resolve_difficulty(difficulty)
    if coordinates is None:
        if labels is not None:
            raise ValueError("labels need coordinates: give both, or neither for a simulated geometry.")
        found = _DEFAULTS | {name: size for name, size in sizes.items() if size is not None}
        geometry = geometry or Geometry()
    else:
        if geometry is not None:
            raise ValueError("geometry shapes simulated sections; leave it out where coordinates are given.")
        points, table = read_map(coordinates, labels)
        found = _sizes_of_map(table, sizes)
    found |= {"n_genes": n_genes, "seed": seed}
    spec = TissueSpec(**found, technologies=kinds, panel_overlap=panel_overlap, difficulty=knobs, geometry=geometry)
    tissue = SimulatedTissue(spec) if coordinates is None else GivenTissue(spec, points, table)
    genes = pd.Index([f"gene_{i:0{max(3, len(str(spec.n_genes)))}d}" for i in range(1, spec.n_genes + 1)])
    panels, program = draw_panels(spec, genes), Program.draw(spec, tissue.composition)
    sections = [tissue.section(i) for i in range(spec.n_sections)]
    blocks = (block for i, cells in enumerate(sections) for block in _sample_section(spec, i, cells, program, panels))
    X = _stack_counts(blocks, spec.n_genes)
    codes = np.repeat(np.arange(len(sections)), [len(cells) for cells in sections])
    cells = Cells.concatenate(sections)
    if (np.diff(cells.rows) < 0).any():  # given cells whose sections are interleaved: back to their order
        order = np.argsort(cells.rows)
        X, cells, codes = X[order], cells[order], codes[order]
    taken = np.array([spec.technology_of(section) for section in range(spec.n_sections)])[codes]
    obs = pd.DataFrame(
        {
            SECTION: pd.Categorical.from_codes(codes, tissue.sections),
            TECHNOLOGY: pd.Categorical.from_codes(taken, [technology.name for technology in spec.technologies]),
            REGION: pd.Categorical.from_codes(cells.niches, tissue.niches),
            CELL_TYPE: pd.Categorical.from_codes(cells.cell_types, tissue.cell_types),
        },
        index=tissue.obs_names[cells.rows],
    )
    # Arrays: names of given niches, such as "L2/3", are no keys of an h5ad file.
    truth = {
        "type_effect": program.type_effect,
        "niche_effect": program.niche_effect,
        "niche_response": program.response,
    }
    return AnnData(
        X,
        obs=obs,
        var=pd.DataFrame({"role": pd.Categorical.from_codes(program.role, ROLES)}, index=genes),
        obsm={SPATIAL: cells.coordinates},
        varm={_MEASURED: panels, **{key: effect.T.copy() for key, effect in truth.items()}},
        uns={_SIMULATION: spec.to_dict() | {"niches": tissue.niches, "cell_types": tissue.cell_types}},
    )


def _sizes_of_map(table: pd.DataFrame, asked: Mapping[str, int | None]) -> dict[str, int]:
    """Return the sizes that given labels fix; a size that was asked for must agree."""
    columns = {"n_sections": SECTION, "n_niches": REGION, "n_cell_types": CELL_TYPE}
    found = {"n_cells": len(table)} | {name: table[key].nunique() for name, key in columns.items() if key in table}
    for name, size in found.items():
        if asked[name] not in (None, size):
            raise ValueError(f"{name}={asked[name]} contradicts labels, which hold {size}; leave {name} out.")
    default = _DEFAULTS["n_cell_types"] if asked["n_cell_types"] is None else asked["n_cell_types"]
    return {"n_cell_types": default} | found


def thin_counts(adata: AnnData, fraction: float, *, layer: str | None = None, seed: int = 0) -> AnnData:
    """Return the cells as if sequenced less deeply: each molecule is kept with probability ``fraction``.

    A count n becomes a draw of Binomial(n, ``fraction``), each by itself, so a cell loses weak genes first, as it does
    to dropout. ``adata`` is not changed.

    Parameters
    ----------
    adata
        Cells × genes with whole, non-negative counts.
    fraction
        Share of the molecules to keep, in (0, 1]; 1 keeps all.
    layer
        Layer of counts. Default: ``X``.
    seed
        Seed of the draws. With one seed and several fractions the draws are not nested.

    Returns
    -------
    AnnData
        A new object with the thinned counts in ``X`` (int32, CSR), and copies of ``obs``, ``var``, coordinates and
        spatial graphs (``obsm`` and ``obsp`` that begin with ``"spatial"``); embeddings are left out, for they follow
        from the counts. Cells may have no count left; they stay.

    Raises
    ------
    ValueError
        If ``fraction`` is not in (0, 1], or a value is negative or not whole.
    KeyError
        If there is no such layer.

    Examples
    --------
    >>> shallow = scjepa.datasets.thin_counts(adata, 0.25)
    """
    require_anndata(adata)
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction must lie in (0, 1], the share of molecules to keep; found {fraction!r}.")
    counts = read_counts(counts_of(adata, layer))
    wrong = ~((counts.data >= 0) & (counts.data == np.floor(counts.data)))
    if wrong.any():
        cell = int(np.searchsorted(counts.indptr, wrong.argmax(), side="right")) - 1
        value = counts.data[wrong.argmax()]
        raise ValueError(
            f"Molecules can only be drawn from whole, non-negative counts; cell {adata.obs_names[cell]!r} has the "
            f"value {value}. {advice_on(adata, layer)(NAN if np.isnan(value) else OTHER)}"
        )
    drawn = np.random.default_rng(seed).binomial(counts.data.astype(np.int64), fraction).astype(np.int32)
    thinned = sparse.csr_matrix((drawn, counts.indices, counts.indptr), shape=counts.shape)
    thinned.eliminate_zeros()
    places = {key: values.copy() for key, values in adata.obsm.items() if key.startswith(SPATIAL)}
    graphs = {key: values.copy() for key, values in adata.obsp.items() if key.startswith(SPATIAL)}
    return AnnData(thinned, obs=adata.obs.copy(), var=adata.var.copy(), obsm=places, obsp=graphs)
