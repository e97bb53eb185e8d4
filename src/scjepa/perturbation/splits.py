"""Splits of conditions into training, validation and test."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np

from scjepa._core.plain import plain
from scjepa.perturbation.conditions import CONTROL, canonical

CATEGORIES = ("single", "combo_seen0", "combo_seen1", "combo_seen2")
"""Categories of test conditions in the split ``simulation``."""


@dataclass(frozen=True)
class PerturbationSplit:
    """Which conditions are trained on and which are kept for the test. Control is always trained on.

    Attributes
    ----------
    train, validation
        Names of conditions, as :func:`condition_name` writes them, sorted; without control.
    test
        Names of test conditions by category.
    kind
        How it was made.
    options
        With what: the arguments of :func:`simulation_split`.
    train_genes
        Genes that the split drew as seen; empty where no genes were drawn.
    """

    train: tuple[str, ...]
    validation: tuple[str, ...] = ()
    test: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    kind: str = "own"
    options: Mapping[str, Any] = field(default_factory=dict)
    train_genes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("train", "validation"):
            object.__setattr__(self, name, _names(getattr(self, name)))
        object.__setattr__(self, "test", {str(c): _names(names) for c, names in self.test.items()})
        object.__setattr__(self, "train_genes", tuple(self.train_genes))
        object.__setattr__(self, "options", dict(self.options))
        places: dict[str, str] = {}
        for part, names in self.parts().items():
            for name in names:
                if name in places:
                    raise ValueError(f"The condition {name!r} is in {places[name]!r} and in {part!r} of the split.")
                places[name] = part
        if not self.train:
            raise ValueError("The split has no perturbation to train on. Give it more conditions or a larger share.")

    def parts(self) -> dict[str, tuple[str, ...]]:
        """Return the conditions of ``"train"``, ``"validation"`` and each category of the test."""
        return {"train": self.train, "validation": self.validation, **self.test}

    @property
    def test_conditions(self) -> tuple[str, ...]:
        """All conditions of the test, sorted."""
        return tuple(sorted(name for names in self.test.values() for name in names))

    def part_of(self, condition: str) -> str | None:
        """Return the part that a condition is in, ``None`` where it is in none; control is in ``"train"``."""
        name = canonical(condition)
        if name == CONTROL:
            return "train"
        return next((part for part, names in self.parts().items() if name in names), None)

    def n_singles_seen(self, condition: str) -> int:
        """Return how many of the condition's genes were perturbed alone in a condition that is trained on."""
        genes = [part for part in canonical(condition).split("+") if part != CONTROL]
        return sum(canonical(gene) in self.train for gene in genes)

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON can hold."""
        return plain(asdict(self), arrays=True)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Build it from what :meth:`to_dict` gave."""
        return cls(**values)

    def save(self, path: str | Path) -> None:
        """Write it as JSON."""
        Path(path).write_text(json.dumps(self.to_dict(), indent=1), encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what :meth:`save` wrote."""
        return cls.from_dict(json.loads(Path(path).read_text(encoding="utf-8")))


def _names(conditions: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted({canonical(name) for name in conditions} - {CONTROL}))


def simulation_split(
    conditions: Iterable[str],
    seed: int = 1,
    *,
    train_gene_size: float = 0.75,
    combo_size: float = 0.75,
    validation: bool = True,
) -> PerturbationSplit:
    """Split conditions as GEARS' ``simulation`` does.

    Of all perturbed genes a share is drawn as *seen*. Trained on are the singles of seen genes, and a share of the
    combos of which both genes are seen. The rest is the test, by category: ``"single"``, singles of unseen genes;
    ``"combo_seen0"``, ``"combo_seen1"``, ``"combo_seen2"``, combos of which none, one or both genes are seen. So a seen
    gene's single is in training wherever there is one; a gene that occurs in combos alone has none
    (:meth:`PerturbationSplit.n_singles_seen` counts).

    Validation is the test of the same split made once more of the training conditions, with a share of 0.9, as in
    GEARS; there too categories of the test are those of the first split.

    Parameters
    ----------
    conditions
        Conditions, of cells or distinct ones, in the grammar of GEARS.
    seed
        Which genes and combos. 1 is GEARS' default.
    train_gene_size, combo_size
        Shares of seen genes, and of combos of two seen genes that are trained on.
    validation
        Whether conditions are held out for validation.

    Returns
    -------
    PerturbationSplit
        Every perturbation in exactly one part.

    Raises
    ------
    ValueError
        If a share is not in (0, 1], a condition perturbs more than two genes, or nothing is left to train on.
    """
    for name, share in (("train_gene_size", train_gene_size), ("combo_size", combo_size)):
        if not 0 < share <= 1:
            raise ValueError(f"{name} must lie in (0, 1], found {share!r}.")
    names = _names(conditions)
    many = [name for name in names if name.count("+") > 1]
    if many:
        raise ValueError(f"The split 'simulation' is of one and two genes; {many[0]!r} perturbs more.")
    train, test, seen = _draw(names, train_gene_size, combo_size, seed)
    held: list[str] = []
    if validation:
        train, inner, _ = _draw(tuple(train), 0.9, 0.9, seed)
        held = [name for part in inner.values() for name in part]
    options = {
        "seed": seed,
        "train_gene_size": train_gene_size,
        "combo_size": combo_size,
        "validation": validation,
    }
    return PerturbationSplit(tuple(train), tuple(held), test, "simulation", options, seen)


def _draw(
    names: tuple[str, ...], gene_share: float, combo_share: float, seed: int
) -> tuple[list[str], dict[str, tuple[str, ...]], tuple[str, ...]]:
    """Return training conditions, test conditions by category, and the genes drawn as seen."""
    genes_of = {name: [part for part in name.split("+") if part != CONTROL] for name in names}
    genes = np.array(sorted({gene for each in genes_of.values() for gene in each}))
    # The old generator, seeded before each draw: so does GEARS.
    known: set[str] = set()
    if len(genes):
        drawn = np.random.RandomState(seed).choice(genes, int(len(genes) * gene_share), replace=False)
        known = set(map(str, drawn))
    by_category: dict[str, list[str]] = {category: [] for category in CATEGORIES}
    train = []
    for name in names:
        n_seen = sum(gene in known for gene in genes_of[name])
        if len(genes_of[name]) == 2:
            by_category[f"combo_seen{n_seen}"].append(name)
        elif n_seen:
            train.append(name)
        else:
            by_category["single"].append(name)
    both = by_category["combo_seen2"]
    if both:
        kept = np.random.RandomState(seed).choice(np.array(both), int(len(both) * combo_share), replace=False)
        train += sorted(map(str, kept))
        by_category["combo_seen2"] = sorted(set(both) - set(map(str, kept)))
    return train, {category: tuple(each) for category, each in by_category.items()}, tuple(sorted(known))
