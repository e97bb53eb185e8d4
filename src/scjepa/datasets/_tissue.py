"""Where cells are, and which niche and type each one has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy.spatial import cKDTree

from scjepa._core.keys import CELL_TYPE, REGION, SECTION
from scjepa.datasets._random import Stream, generator

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from scjepa.datasets._spec import Geometry, TissueSpec

_JITTER = 0.4
"""Radius of a cell's displacement from the lattice, in spacings: no row of the lattice survives it."""

_OCCUPIED = 0.85
"""Share of lattice sites that hold a cell; the rest are gaps."""

_ROOM = 1.5
"""Half-width of the area that is seeded, in radii of a disc of the section's size; holds every outline."""


_WARP_WAVELENGTH = 2.2
"""Wavelength of the warp that bends borders, in radii of a patch."""


@dataclass(frozen=True)
class Cells:
    """The cells of one section.

    Attributes
    ----------
    coordinates
        (n, 2) float64, in µm for simulated sections.
    niches, cell_types
        (n,) int64 codes.
    rows
        (n,) int64, position of each cell in the whole tissue.
    """

    coordinates: NDArray[np.float64]
    niches: NDArray[np.int64]
    cell_types: NDArray[np.int64]
    rows: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, which: slice | NDArray[np.int64]) -> Cells:
        return Cells(self.coordinates[which], self.niches[which], self.cell_types[which], self.rows[which])

    @classmethod
    def concatenate(cls, parts: Sequence[Cells]) -> Cells:
        """Return the cells of all ``parts``, one after another."""
        return cls(*(np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(cls)))


@dataclass(frozen=True)
class SmoothField:
    """A smooth random function of the plane with mean 0 and variance 1: a sum of plane waves of random direction.

    Attributes
    ----------
    frequencies
        (n_waves, 2) float64, in radians per unit of length.
    phases
        (n_waves,) float64.
    """

    frequencies: NDArray[np.float64]
    phases: NDArray[np.float64]

    @classmethod
    def draw(cls, rng: np.random.Generator, wavelength: float, n_waves: int = 12) -> SmoothField:
        """Draw a field whose bumps are about half a ``wavelength`` wide."""
        angles = rng.uniform(0, 2 * np.pi, n_waves)
        lengths = 2 * np.pi / (wavelength * rng.uniform(0.8, 1.6, n_waves))
        directions = np.stack([np.cos(angles), np.sin(angles)], axis=1)
        return cls(directions * lengths[:, None], rng.uniform(0, 2 * np.pi, n_waves))

    def __call__(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the (n,) values at (n, 2) ``points``."""
        total = np.zeros(len(points))
        for (fx, fy), phase in zip(self.frequencies, self.phases, strict=True):
            total += np.cos(points[:, 0] * fx + points[:, 1] * fy + phase)
        return total * np.sqrt(2 / len(self.phases))


class SimulatedTissue:
    """Sections of random outline that share niches and cell types, each with a geometry of its own."""

    def __init__(self, spec: TissueSpec) -> None:
        if spec.geometry is None:
            raise ValueError("A simulated tissue needs a geometry; pass scjepa.datasets.Geometry().")
        self.spec, self.geometry = spec, spec.geometry
        self.sections = _names("section", spec.n_sections)
        self.niches = _names("niche", spec.n_niches)
        self.cell_types = _names("type", spec.n_cell_types)
        rng = generator(spec.seed, Stream.COMPOSITION)
        self.composition = draw_composition(rng, spec.n_niches, spec.n_cell_types, spec.difficulty.mix_sharpness)

    def section(self, index: int) -> Cells:
        """Return the cells of section ``index``."""
        spec = self.spec
        bounds = np.arange(spec.n_sections + 1) * spec.n_cells // spec.n_sections
        n_cells = int(bounds[index + 1] - bounds[index])
        rng = generator(spec.seed, Stream.SHAPE, index)
        points = scatter_cells(rng, n_cells)
        niches = plant_niches(rng, points, spec.n_niches, self.geometry)
        cell_types = draw_cell_types(generator(spec.seed, Stream.CELL_TYPES, index), niches, self.composition)
        radius = np.sqrt(n_cells / (np.pi * self.geometry.density)) * 1000
        coordinates = (points - points.min(axis=0)) * radius
        return Cells(coordinates, niches, cell_types, np.arange(bounds[index], bounds[index + 1]))

    def obs_names(self, rows: NDArray[np.int64]) -> pd.Index:
        """Return the names of the cells at ``rows``."""
        return pd.Index([f"cell_{row}" for row in rows.tolist()])


class GivenTissue:
    """Cells at given coordinates with given niches, and given or drawn cell types."""

    def __init__(self, spec: TissueSpec, coordinates: NDArray[np.float64], labels: pd.DataFrame) -> None:
        self.spec = spec
        self._coordinates = coordinates
        self._names = labels.index
        self._section_codes, self.sections = _codes(labels[SECTION])
        self._niche_codes, self.niches = _codes(labels[REGION])
        self._type_codes: NDArray[np.int64] | None = None
        if CELL_TYPE in labels:
            self._type_codes, self.cell_types = _codes(labels[CELL_TYPE])
            counts = np.zeros((len(self.niches), len(self.cell_types)))
            np.add.at(counts, (self._niche_codes, self._type_codes), 1)
            self.composition = counts / counts.sum(axis=1, keepdims=True)
        else:
            self.cell_types = _names("type", spec.n_cell_types)
            rng, sharpness = generator(spec.seed, Stream.COMPOSITION), spec.difficulty.mix_sharpness
            self.composition = draw_composition(rng, len(self.niches), spec.n_cell_types, sharpness)

    def section(self, index: int) -> Cells:
        """Return the cells of section ``index``."""
        rows = np.flatnonzero(self._section_codes == index)
        niches = self._niche_codes[rows]
        if self._type_codes is None:
            cell_types = draw_cell_types(generator(self.spec.seed, Stream.CELL_TYPES, index), niches, self.composition)
        else:
            cell_types = self._type_codes[rows]
        return Cells(self._coordinates[rows], niches, cell_types, rows)

    def obs_names(self, rows: NDArray[np.int64]) -> pd.Index:
        """Return the names of the cells at ``rows``."""
        return self._names[rows]


def scatter_cells(rng: np.random.Generator, n_cells: int) -> NDArray[np.float64]:
    """Return (n_cells, 2) points in a wavy outline, spaced as cells are, in radii of a disc of the same area.

    A turned triangular lattice is jittered and thinned, and the outline grows until it holds ``n_cells``.
    """
    spacing = np.sqrt(2 / np.sqrt(3) * np.pi * _OCCUPIED / n_cells)
    reach = _ROOM + 3 * spacing
    steps = np.arange(-np.ceil(reach / spacing) - 1, np.ceil(reach / spacing) + 2)
    rows = np.arange(-np.ceil(reach / spacing * 2 / np.sqrt(3)) - 1, np.ceil(reach / spacing * 2 / np.sqrt(3)) + 2)
    x = (steps[None, :] + 0.5 * (rows[:, None] % 2)) * spacing
    y = np.broadcast_to(rows[:, None] * spacing * np.sqrt(3) / 2, x.shape)
    angle, radius = rng.uniform(0, 2 * np.pi, x.size), np.sqrt(rng.uniform(0, 1, x.size)) * _JITTER * spacing
    points = np.stack([x.ravel() + radius * np.cos(angle), y.ravel() + radius * np.sin(angle)], axis=1)
    level = _outline_level(rng, points)
    level[rng.uniform(size=len(points)) > _OCCUPIED] = np.inf
    inside = np.sort(np.argpartition(level, n_cells - 1)[:n_cells])
    return points[inside]


def _outline_level(rng: np.random.Generator, points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return how far out each point is, as a multiple of a random wavy outline of about unit radius."""
    theta = np.arctan2(points[:, 1], points[:, 0])
    outline = np.ones(len(points))
    for wave, amplitude in enumerate((0.12, 0.07, 0.04, 0.03), start=2):
        outline += amplitude * np.cos(wave * theta + rng.uniform(0, 2 * np.pi))
    return np.hypot(points[:, 0], points[:, 1]) / outline


def plant_niches(
    rng: np.random.Generator, points: NDArray[np.float64], n_niches: int, geometry: Geometry
) -> NDArray[np.int64]:
    """Return the niche of each of the (n, 2) ``points``: nearest seed after a smooth warp of the plane.

    Seeds come from a few rounds of Lloyd's algorithm on the warped points, so patches differ in size and none is
    empty; the warp bends every border.
    """
    n_patches = n_niches * geometry.patches
    patch_radius = 1 / np.sqrt(n_patches)
    fields = [SmoothField.draw(rng, _WARP_WAVELENGTH * patch_radius) for _ in range(2)]
    warp = np.stack([field(points) for field in fields], axis=1)
    warped = points + geometry.warp * patch_radius * warp
    sample = warped[rng.choice(len(warped), min(len(warped), 500 * n_patches), replace=False)]
    seeds = sample[rng.choice(len(sample), n_patches, replace=len(sample) < n_patches)]
    for _ in range(4):
        nearest = cKDTree(seeds).query(sample)[1]
        sizes = np.bincount(nearest, minlength=n_patches)
        sums = np.stack([np.bincount(nearest, sample[:, axis], n_patches) for axis in range(2)], axis=1)
        seeds = np.where(sizes[:, None] > 0, sums / np.maximum(sizes, 1)[:, None], seeds)
    niche_of_seed = rng.permutation(np.tile(np.arange(n_niches), geometry.patches))
    return niche_of_seed[cKDTree(seeds).query(warped)[1]]


def draw_composition(
    rng: np.random.Generator, n_niches: int, n_cell_types: int, sharpness: float
) -> NDArray[np.float64]:
    """Return the (n_niches, n_cell_types) shares of types; ``sharpness`` is how far niches differ."""
    logits = rng.normal(0, 0.5, n_cell_types) + sharpness * rng.normal(size=(n_niches, n_cell_types))
    shares = np.exp(logits)
    return shares / shares.sum(axis=1, keepdims=True)


def draw_cell_types(
    rng: np.random.Generator, niches: NDArray[np.int64], composition: NDArray[np.float64]
) -> NDArray[np.int64]:
    """Return the type of each cell, drawn from the composition of its niche."""
    cumulative = np.cumsum(composition, axis=1)[:, :-1]
    draws = rng.uniform(size=len(niches))
    cell_types = np.zeros(len(niches), dtype=np.int64)
    for boundary in cumulative.T:
        cell_types += draws > boundary[niches]
    return cell_types


def read_map(coordinates: ArrayLike, labels: Any) -> tuple[NDArray[np.float64], pd.DataFrame]:
    """Return checked copies of given coordinates, (n, d) float64, and labels with columns region, section[, cell_type].

    Parameters
    ----------
    coordinates
        (n, 2) or (n, 3) numbers.
    labels
        (n,) regions, or a DataFrame with the column ``"region"`` and optionally ``"cell_type"`` and ``"section"``.
    """
    points = np.array(coordinates, dtype=np.float64)
    if points.ndim != 2 or points.shape[1] not in (2, 3) or not len(points):
        raise ValueError(f"coordinates must have shape (n_cells, 2) or (n_cells, 3), found {points.shape}.")
    broken = np.flatnonzero(~np.isfinite(points).all(axis=1))
    if len(broken):
        raise ValueError(
            f"coordinates of {len(broken)} cells are not finite (first at row {broken[0]}); drop those cells first."
        )
    table = _label_table(labels)
    if len(table) != len(points):
        raise ValueError(
            f"labels has {len(table)} rows and coordinates {len(points)}; they must describe the same cells."
        )
    for column in table:
        missing = np.flatnonzero(table[column].isna())
        if len(missing):
            raise ValueError(
                f"labels[{column!r}] is missing for {len(missing)} cells (first at row {missing[0]}); "
                "drop those cells or name them."
            )
    return points, table


def _label_table(labels: Any) -> pd.DataFrame:
    if labels is None:
        raise ValueError("coordinates need labels: the niche of each cell, or a DataFrame with a 'region' column.")
    if isinstance(labels, pd.DataFrame):
        if REGION not in labels:
            found = ", ".join(map(str, labels.columns)) or "none"
            raise KeyError(
                f"labels has no column {REGION!r} (found: {found}); rename the column that holds the niches."
            )
        table = labels[[key for key in (REGION, CELL_TYPE, SECTION) if key in labels]].copy()
        table.index = labels.index.astype(str)
    else:
        values = labels.array if isinstance(labels, pd.Series) else np.asarray(labels)
        table = pd.DataFrame({REGION: values})
        table.index = pd.Index([f"cell_{i}" for i in range(len(table))])
    if SECTION not in table:
        table[SECTION] = _names("section", 1)[0]
    return table


def _codes(values: pd.Series) -> tuple[NDArray[np.int64], list[str]]:
    """Return codes and names; the order of a categorical is kept, unused categories are not."""
    categorical = pd.Categorical(values).remove_unused_categories()
    names = [str(category) for category in categorical.categories]
    return np.asarray(categorical.codes, dtype=np.int64), names


def _names(what: str, n: int) -> list[str]:
    width = len(str(n))
    return [f"{what}_{i:0{width}d}" for i in range(1, n + 1)]
