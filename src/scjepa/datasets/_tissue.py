"""A simulated tissue: what it is made of and how hard its niches are to find, where its cells are, and what each is.

One seed gives many independent streams of random numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from enum import IntEnum
from types import MappingProxyType
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import cKDTree

from scjepa._core.checks import NOT_NEGATIVE, POSITIVE, check_fields, within
from scjepa._core.keys import CELL_TYPE, REGION, SECTION, as_key
from scjepa._core.options import Config, option, unknown_name
from scjepa._core.plain import take_plain, whole


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


_NAMED = ("easy", "medium", "hard")

_SETTINGS = {
    "niche_effect": (2.0, 1.6, 1.4),
    "niche_genes": (0.35, 0.3, 0.25),
    "opposed": (0.0, 0.1, 0.3),
    "mix_sharpness": (1.5, 1.2, 0.3),
    "type_effect": (1.5, 1.5, 2.0),
    "capture": (0.5, 0.4, 0.25),
    "background": (0.05, 0.08, 0.1),
    "dispersion": (0.2, 0.3, 0.4),
    "depth_spread": (0.25, 0.3, 0.4),
    "batch_effect": (0.02, 0.06, 0.5),
    "technology_effect": (0.2, 0.3, 0.5),
    "gradient": (0.0, 0.05, 0.05),
}
"""Options in each of the named difficulties."""

DIFFICULTIES: Mapping[str, Difficulty] = MappingProxyType(
    {name: Difficulty(**{key: of[i] for key, of in _SETTINGS.items()}) for i, name in enumerate(_NAMED)}
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


@dataclass(frozen=True)
class TechnologySpec:
    """How one technology sees the tissue; ``None`` takes the difficulty's value.

    Parameters
    ----------
    name
        Name in ``obs["technology"]``.
    genes
        Its panel: names of genes, or a share of all genes drawn at random; ``None``: by ``panel_overlap``.
    capture, background, dispersion, batch_effect
        As in :class:`Difficulty`, for this technology's sections.
    """

    name: str
    genes: float | Sequence[str] | None = None
    capture: float | None = None
    background: float | None = None
    dispersion: float | None = None
    batch_effect: float | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise ValueError(f"TechnologySpec.name must be text, found {self.name!r}.")
        if isinstance(self.genes, str):
            raise TypeError(f"TechnologySpec.genes must be a share or a list of names, found {self.genes!r}.")
        if isinstance(self.genes, Iterable):
            object.__setattr__(self, "genes", tuple(map(str, self.genes)))
        elif self.genes is not None:
            object.__setattr__(self, "genes", float(self.genes))
            check_fields(self, within(0.0, 1.0), "genes")
        given = [n for n in ("capture", "background", "dispersion", "batch_effect") if getattr(self, n) is not None]
        check_fields(self, NOT_NEGATIVE, *given)
        check_fields(self, within(0.0, 1.0), *(name for name in given if name in ("capture", "background")))
        if "capture" in given:
            check_fields(self, POSITIVE, "capture")


Technologies: TypeAlias = str | TechnologySpec | Sequence[str | TechnologySpec] | Mapping[str, Mapping[str, Any]]
"""A name, names, :class:`TechnologySpec`, or a mapping of names to options."""


@dataclass(frozen=True)
class Geometry(Config):
    """Shape of simulated sections.

    Parameters
    ----------
    density
        Cells per mm².
    patches
        Separate patches of each niche in a section.
    warp
        How far borders are bent, in radii of a patch; 0: straight borders.
    """

    density: float = option(5000.0, POSITIVE)
    patches: int = option(1, POSITIVE)
    warp: float = option(0.35, within(0.0, 1.0))


@dataclass(frozen=True)
class TissueSpec:
    """A tissue, resolved: what :func:`scjepa.datasets.simulated_tissue` records in ``uns["scjepa_simulation"]``.

    ``geometry`` is ``None`` where coordinates were given.
    """

    n_cells: int
    n_sections: int
    n_niches: int
    n_cell_types: int
    n_genes: int
    technologies: tuple[TechnologySpec, ...]
    panel_overlap: float
    difficulty: Difficulty
    seed: int = 0
    geometry: Geometry | None = None

    def __post_init__(self) -> None:
        for name in ("n_cells", "n_sections", "n_niches", "n_cell_types", "n_genes"):
            object.__setattr__(self, name, whole(name, getattr(self, name), least=1))
        object.__setattr__(self, "seed", whole("seed", self.seed, least=0))
        if self.n_cells < self.n_sections:
            raise ValueError(f"n_cells={self.n_cells} cannot fill n_sections={self.n_sections}; ask for more cells.")
        check_fields(self, within(0.0, 1.0), "panel_overlap")
        names = [technology.name for technology in self.technologies]
        if not names:
            raise ValueError("technologies is empty; give at least one name, such as technologies=('A',).")
        if len(set(names)) < len(names):
            raise ValueError(f"technologies must have different names, found {', '.join(names)}.")
        if len(names) > self.n_sections:
            raise ValueError(
                f"{len(names)} technologies ({', '.join(names)}) need as many sections, found {self.n_sections}: "
                f"each section is measured by one technology. Call with n_sections={len(names)} or more; for given "
                "coordinates, with labels that have a 'section' column."
            )

    def technology_of(self, section: int) -> int:
        """Return the position in ``technologies`` of the one that measures ``section``: they take turns."""
        return section % len(self.technologies)

    def to_dict(self) -> dict[str, object]:
        """Return nested plain values that h5ad can hold (what is ``None`` is left out)."""
        spec = {name: value for name, value in asdict(self).items() if value is not None}
        spec["technologies"] = {
            as_key(each["name"]): {k: list(v) if isinstance(v, tuple) else v for k, v in each.items() if v is not None}
            for each in spec["technologies"]
        }
        return spec


def resolve_technologies(technologies: Technologies) -> tuple[TechnologySpec, ...]:
    """Return the technologies given as a name, names, :class:`TechnologySpec` or a mapping of names to options."""
    if isinstance(technologies, str | TechnologySpec):
        technologies = (technologies,)
    if isinstance(technologies, Mapping):
        try:
            return tuple(TechnologySpec(name, **options) for name, options in technologies.items())
        except TypeError as error:
            known = ", ".join(list(TechnologySpec.__dataclass_fields__)[1:])
            raise TypeError(f"technologies as a mapping takes name -> options ({known}): {error}") from error
    resolved = [TechnologySpec(item) if isinstance(item, str) else item for item in technologies]
    for item in resolved:
        if not isinstance(item, TechnologySpec):
            raise TypeError(f"technologies holds names or TechnologySpec, found {type(item).__name__}.")
    return tuple(resolved)


class Stream(IntEnum):
    """What a stream is drawn for; the numbers are part of the frozen difficulties, so they never change."""

    COMPOSITION = 0
    GENES = 1
    PANEL = 2
    TECHNOLOGY_EFFECT = 3
    SHAPE = 4
    CELL_TYPES = 5
    SECTION_EFFECT = 6
    COUNTS = 7


def generator(seed: int, stream: Stream, *key: int) -> np.random.Generator:
    """Return the generator of ``stream`` and ``key`` (a section, a block of cells) under ``seed``.

    Streams with different keys are independent, so a section or a block is drawn the same whatever is drawn before
    it. NumPy keeps the bits of :class:`numpy.random.PCG64` fixed for ever, and its distributions nearly so.
    """
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(int(stream), *key))))


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
        self.spec, self.geometry = spec, spec.geometry or Geometry()
        self.obs_names = pd.Index([f"cell_{row}" for row in range(spec.n_cells)])
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


class GivenTissue:
    """Cells at given coordinates with given niches, and given or drawn cell types."""

    def __init__(self, spec: TissueSpec, coordinates: NDArray[np.float64], labels: pd.DataFrame) -> None:
        self.spec = spec
        self._coordinates = coordinates
        self.obs_names = labels.index
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


def read_map(
    coordinates: ArrayLike, labels: ArrayLike | pd.DataFrame | None
) -> tuple[NDArray[np.float64], pd.DataFrame]:
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
        raise ValueError(f"coordinates of {len(broken)} cells are not finite (first at row {broken[0]}); drop those.")
    table = _label_table(labels)
    if len(table) != len(points):
        raise ValueError(f"labels has {len(table)} rows and coordinates {len(points)}; they must be of the same cells.")
    for column in table:
        missing = np.flatnonzero(table[column].isna())
        if len(missing):
            raise ValueError(
                f"labels[{column!r}] is missing for {len(missing)} cells (first at row {missing[0]}); "
                "drop those cells or name them."
            )
    return points, table


def _label_table(labels: ArrayLike | pd.DataFrame | None) -> pd.DataFrame:
    if labels is None:
        raise ValueError("coordinates need labels: the niche of each cell, or a DataFrame with a 'region' column.")
    if isinstance(labels, pd.DataFrame):
        if REGION not in labels:
            found = ", ".join(map(str, labels.columns)) or "none"
            raise KeyError(f"labels has no column {REGION!r} (found: {found}); rename the column that has the niches.")
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
    return [f"{what}_{i:0{len(str(n))}d}" for i in range(1, n + 1)]
