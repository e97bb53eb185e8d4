"""What a simulated tissue is made of, and how hard its niches are to find: frozen dataclasses, validated once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from scjepa._core.checks import POSITIVE, check_fields, within
from scjepa._core.keys import as_key
from scjepa._core.options import unknown_name
from scjepa._core.plain import take_plain, whole

MEASURED = "measured"
"""``varm`` key of the genes × technologies table that tells "not measured" from "zero"."""

SIMULATION = "scjepa_simulation"
"""``uns`` key of the specification a tissue was simulated from."""


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
        for name in given:
            if getattr(self, name) < 0:
                raise ValueError(f"TechnologySpec.{name} must not be negative, found {getattr(self, name)!r}.")
        check_fields(self, within(0.0, 1.0), *(name for name in given if name in ("capture", "background")))
        if "capture" in given:
            check_fields(self, POSITIVE, "capture")


@dataclass(frozen=True)
class Geometry:
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

    density: float = 5000.0
    patches: int = 1
    warp: float = 0.35

    def __post_init__(self) -> None:
        take_plain(self)
        check_fields(self, POSITIVE, "density", "patches")
        check_fields(self, within(0.0, 1.0), "warp")


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
        self._check_technologies()

    def _check_technologies(self) -> None:
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

    def to_dict(self) -> dict[str, Any]:
        """Return nested plain values that h5ad can hold (what is ``None`` is left out)."""
        spec = {name: value for name, value in asdict(self).items() if value is not None}
        spec["technologies"] = {
            as_key(technology["name"]): {k: _plain(v) for k, v in technology.items() if v is not None}
            for technology in spec["technologies"]
        }
        return spec


def resolve_technologies(technologies: Any) -> tuple[TechnologySpec, ...]:
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


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
