"""What an objective is and what it says of itself: the loss of a batch, its ratios, and what to try when it fails."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

from torch import Tensor, nn


@dataclass
class ObjectiveOutput:
    """The loss of a batch and what it is made of.

    Attributes
    ----------
    loss
        Scalar to differentiate.
    terms
        Detached scalars by name: the unweighted terms of the loss.
    ratios
        Detached scalars by name, those that :attr:`Objective.ratios` explains.
    predictions, targets, genes
        At the queried masked tokens: ``(Q, width)``, ``(Q, width)`` and ``(Q,)`` vocabulary ids, detached; for the
        monitor, which compares the loss with that of the mean target of each gene.
    """

    loss: Tensor
    terms: dict[str, Tensor] = field(default_factory=dict)
    ratios: dict[str, Tensor] = field(default_factory=dict)
    predictions: Tensor | None = None
    targets: Tensor | None = None
    genes: Tensor | None = None


class Ratio(NamedTuple):
    """A loss over that of knowing nothing, which is 1 where nothing is learned; in the history it is ``<name>_ratio``.

    Attributes
    ----------
    sentence
        What it says, with ``{:.2f}`` for the number.
    line
        Name of its line in a figure.
    panel
        Title of the panel, which ratios of one title share.
    at_one
        What 1 means.
    doublings
        Whether the panel's axis is logarithmic, for ratios that begin far above 1.
    """

    sentence: str
    line: str
    panel: str = "loss / loss of predicting the mean"
    at_one: str = "predicts the mean"
    doublings: bool = True


TOKENS = Ratio("loss {:.2f} times that of predicting each gene's mean target", "tokens")
"""Ratio ``"loss"``, which the monitor takes of the output's predictions and targets."""

VIEWS = Ratio(
    "views of one neighborhood or cell {:.2f} times as far apart as views of any",
    "",
    "distance of views: of one / of any",
    "no more alike than any two",
    doublings=False,
)


class Advice(NamedTuple):
    """What to try, and the settings from which on that is done already: the part and name of each, and its value."""

    text: str
    done: tuple[tuple[str, str, float], ...] = ()

    def is_done(self, config: object) -> bool:
        """Return whether a model's configuration has all the settings; without one nothing is known to be done."""
        return bool(self.done) and all(_is_set(config, *setting) for setting in self.done)


def _is_set(config: object, part: str, name: str, least: float) -> bool:
    """Return whether an option is set to ``least`` or more; of several values the smallest counts."""
    value = getattr(getattr(config, part, None), name, None)
    if value is None:
        return False
    return min(value) >= least if isinstance(value, tuple) else value >= least


SLOWER = Advice("lower the learning rate by three, plan_kwargs={'learning_rate': ...}")
SLOWER_OR_EMA = Advice(SLOWER.text + ", or start the EMA lower for a short run")
SHORTER = Advice("train for fewer steps, or lower the learning rate")

ADVICE: Mapping[str, tuple[Advice, ...]] = {
    "collapsed": (SLOWER,),
    "shrinking": (SHORTER,),
    "not learning": (
        Advice("train longer, or raise the learning rate by three"),
        Advice(
            "check that cells have tokens: np.ravel((adata.X > 0).sum(axis=1)) counts the genes that each expresses"
        ),
    ),
}
"""What to try, in order, by the verdict on a run, whatever the objective."""


class Objective(nn.Module):
    """What is predicted and how its error is measured; base of the objectives.

    Called with the context encoder, the target encoder, a batch and a generator for what is drawn, it returns an
    :class:`ObjectiveOutput`. What the rest of the package has to know of it, the class says.
    """

    ratios: ClassVar[Mapping[str, Ratio]] = {}
    """Ratios of the output by name."""
    advice: ClassVar[Mapping[str, tuple[Advice, ...]]] = ADVICE
    """What to try by the verdict on a run."""
    technology_tables: ClassVar[tuple[str, ...]] = ()
    """Parameters that have a row for each technology, and get new rows when a query brings one."""
    has_teacher: ClassVar[bool] = True
    """Whether the target encoder follows by EMA; else it is a copy of the one encoder, up to date after each step."""
    needs_technology: bool = False
    """Whether each cell must be of a technology that the model knows."""
    passes: float = 1.0
    """How often a token of a batch passes the trained encoder, a predictor's blocks counted by their share."""
    partner_steps: int = 0
    """Steps to a cell whose neighborhood is predicted too (batches then come with ``partners``); 0: none is."""
