"""Simulated tissue as AnnData."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from scjepa._core.keys import CELL_TYPE, REGION, SECTION, SPATIAL, TECHNOLOGY
from scjepa.datasets._expression import ROLES, Program, draw_panels, sample_section, stack_counts
from scjepa.datasets._spec import (
    MEASURED,
    SIMULATION,
    Difficulty,
    Geometry,
    TechnologySpec,
    TissueSpec,
    resolve_difficulty,
    resolve_technologies,
)
from scjepa.datasets._tissue import Cells, GivenTissue, SimulatedTissue, read_map

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

_DEFAULTS = {"n_cells": 5000, "n_sections": 3, "n_niches": 6, "n_cell_types": 12}
"""Sizes where neither the caller nor given labels say; the difficulties were measured at these."""


class Simulation:
    """A tissue that is fixed but not yet sampled: genes, panels and sections, ready to be drawn one at a time."""

    def __init__(self, spec: TissueSpec, tissue: SimulatedTissue | GivenTissue) -> None:
        self.spec, self.tissue = spec, tissue
        width = max(3, len(str(spec.n_genes)))
        self.genes = pd.Index([f"gene_{i:0{width}d}" for i in range(1, spec.n_genes + 1)])
        self.panels = draw_panels(spec, self.genes)
        self.program = Program.draw(spec, tissue.composition)

    def counts(self, section: int, cells: Cells) -> Iterator[sparse.csr_matrix]:
        """Yield blocks of counts of ``section``."""
        return sample_section(self.spec, section, cells, self.program, self.panels)

    def anndata(self, X: sparse.csr_matrix, sections: NDArray[np.int64], cells: Cells) -> AnnData:
        """Return counts and cells as AnnData; categories are those of the whole tissue."""
        spec, tissue = self.spec, self.tissue
        technologies = np.array([spec.technology_of(s) for s in range(spec.n_sections)])[sections]
        obs = pd.DataFrame(
            {
                SECTION: pd.Categorical.from_codes(sections, tissue.sections),
                TECHNOLOGY: pd.Categorical.from_codes(technologies, [t.name for t in spec.technologies]),
                REGION: pd.Categorical.from_codes(cells.niches, tissue.niches),
                CELL_TYPE: pd.Categorical.from_codes(cells.cell_types, tissue.cell_types),
            },
            index=tissue.obs_names(cells.rows),
        )
        program = self.program
        var = pd.DataFrame({"role": pd.Categorical.from_codes(program.role, ROLES)}, index=self.genes)
        truth = {  # arrays: names of given niches, such as "L2/3", are no keys of an h5ad file
            "type_effect": program.type_effect.T.copy(),
            "niche_effect": program.niche_effect.T.copy(),
            "niche_response": program.response.T.copy(),
        }
        return AnnData(
            X,
            obs=obs,
            var=var,
            obsm={SPATIAL: cells.coordinates},
            varm={MEASURED: self.panels.copy(), **truth},
            uns={SIMULATION: spec.to_dict() | {"niches": tissue.niches, "cell_types": tissue.cell_types}},
        )


def simulated_tissue(
    n_cells: int | None = None,
    *,
    n_sections: int | None = None,
    n_niches: int | None = None,
    n_cell_types: int | None = None,
    n_genes: int = 200,
    technologies: Sequence[str | TechnologySpec] | Mapping[str, Mapping[str, Any]] = ("A",),
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
    simulation = _prepare(
        n_cells=n_cells,
        n_sections=n_sections,
        n_niches=n_niches,
        n_cell_types=n_cell_types,
        n_genes=n_genes,
        technologies=technologies,
        panel_overlap=panel_overlap,
        difficulty=difficulty,
        geometry=geometry,
        coordinates=coordinates,
        labels=labels,
        seed=seed,
    )
    sections = [simulation.tissue.section(i) for i in range(simulation.spec.n_sections)]
    X = stack_counts((block for i, cells in enumerate(sections) for block in simulation.counts(i, cells)), n_genes)
    codes = np.repeat(np.arange(len(sections)), [len(cells) for cells in sections])
    cells = Cells.concatenate(sections)
    if (np.diff(cells.rows) < 0).any():  # given cells whose sections are interleaved: back to their order
        order = np.argsort(cells.rows)
        X, cells, codes = X[order], cells[order], codes[order]
    return simulation.anndata(X, codes, cells)


def _prepare(
    *,
    n_cells: int | None,
    n_sections: int | None,
    n_niches: int | None,
    n_cell_types: int | None,
    coordinates: Any,
    labels: Any,
    technologies: Any,
    difficulty: str | Difficulty,
    geometry: Geometry | None,
    **rest: Any,
) -> Simulation:
    """Resolve and check the options of :func:`simulated_tissue`; nothing of the size of the tissue is drawn."""
    sizes = {"n_cells": n_cells, "n_sections": n_sections, "n_niches": n_niches, "n_cell_types": n_cell_types}
    rest["technologies"] = resolve_technologies(technologies)
    rest["difficulty"] = resolve_difficulty(difficulty)
    if coordinates is None:
        if labels is not None:
            raise ValueError("labels need coordinates: give both, or neither for a simulated geometry.")
        rest |= _DEFAULTS | {name: size for name, size in sizes.items() if size is not None}
        spec = TissueSpec(**rest, geometry=geometry or Geometry())
        return Simulation(spec, SimulatedTissue(spec))
    if geometry is not None:
        raise ValueError("geometry shapes simulated sections; leave it out where coordinates are given.")
    points, table = read_map(coordinates, labels)
    rest |= _sizes_of_map(table, sizes)
    spec = TissueSpec(**rest)
    return Simulation(spec, GivenTissue(spec, points, table))


def _sizes_of_map(table: pd.DataFrame, asked: Mapping[str, int | None]) -> dict[str, int]:
    """Return the sizes that given labels fix; a size that was asked for must agree."""
    columns = {"n_sections": SECTION, "n_niches": REGION, "n_cell_types": CELL_TYPE}
    found = {"n_cells": len(table)} | {name: table[key].nunique() for name, key in columns.items() if key in table}
    for name, size in found.items():
        if asked[name] not in (None, size):
            raise ValueError(f"{name}={asked[name]} contradicts labels, which hold {size}; leave {name} out.")
    default = _DEFAULTS["n_cell_types"] if asked["n_cell_types"] is None else asked["n_cell_types"]
    return {"n_cell_types": default} | found
