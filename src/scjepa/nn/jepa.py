"""Two encoders and an objective: what training by joint embedding is made of, whatever is embedded."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, NamedTuple, Protocol, Self, TypeAlias, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from scjepa.nn.config import TransformerConfig
from scjepa.nn.encoder import Encoder


@contextmanager
def float32_default() -> Iterator[None]:
    """Let new tensors be float32 in this block, or in the function that this decorates.

    ``torch.set_default_dtype`` holds for the whole session, and decides what ``torch.zeros``, ``nn.Linear`` and the
    product of a whole number and a fraction are. Tables and weights here are float32, which do not go with others; and
    what is drawn depends on the type as well, so that a seed would not repeat. The default is put back afterwards.
    """
    before = torch.get_default_dtype()
    if before == torch.float32:
        yield
        return
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


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
    student, teacher
        ``(B, width)``, detached: one vector for each sequence, of what the context encoder saw of it and of the whole
        by the target encoder; for the monitor, which embeds cells itself where the objective gives none.
    predictions, targets, genes
        At the queried masked tokens: ``(Q, width)``, ``(Q, width)`` and ``(Q,)`` vocabulary ids, detached; for the
        monitor, which compares the loss with that of the mean target of each gene.
    """

    loss: Tensor
    terms: dict[str, Tensor] = field(default_factory=dict)
    ratios: dict[str, Tensor] = field(default_factory=dict)
    student: Tensor | None = None
    teacher: Tensor | None = None
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


BatchT = TypeVar("BatchT")
"""Batch of cells."""


class Source(Protocol):
    """What gives batches of cells."""

    def batch(self, cells: Tensor) -> Any:
        """Return the batch of ``cells`` as it is embedded."""


SourceT = TypeVar("SourceT", bound=Source, contravariant=True)

_COMPUTES = ("__init__", "begin", "forward", "gather", "loss", "embed", "predict")
"""Methods that make tensors."""


class ModelConfig(Protocol):
    """What a module's configuration has, whatever the model."""

    @property
    def encoder(self) -> TransformerConfig:
        """Size of the encoder."""


class JEPAModule(nn.Module, ABC, Generic[SourceT, BatchT]):
    """A context encoder, a target encoder that follows it by EMA, and an objective: what every JEPA consists of.

    A subclass says what its batches are (:meth:`gather`) and how a batch is embedded (:meth:`embed`); training, monitor
    and estimates ask for no more.

    Parameters
    ----------
    config
        The model's configuration.
    context
        The encoder that is trained; the target encoder begins as a copy of it.
    objective
        The loss, with its predictor and heads.
    """

    config: ModelConfig
    context: Encoder
    target: Encoder
    objective: Objective

    def __init__(self, config: ModelConfig, context: Encoder, objective: Objective, target: Encoder | None = None):
        super().__init__()
        self.config, self.context, self.objective = config, context, objective
        self.target = copy.deepcopy(context if target is None else target).requires_grad_(False).eval()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Let what a subclass makes and computes be float32, whatever torch's default is."""
        super().__init_subclass__(**kwargs)
        for name in _COMPUTES:
            if name in vars(cls):
                setattr(cls, name, float32_default()(vars(cls)[name]))

    @property
    def n_genes(self) -> int:
        """Genes that have a vector."""
        return self.context.embedding.gene.num_embeddings

    @abstractmethod
    def gather(self, source: SourceT, cells: Tensor, generator: torch.Generator | None = None) -> BatchT:
        """Return the batch of ``cells`` to train on; without ``generator`` nothing is left to chance."""

    @abstractmethod
    def embed(self, batch: BatchT, encoder: str = "target", scale: str = "") -> Tensor:
        """Return one vector for each sequence of the batch, ``(B, width)``, float32."""

    def monitored(self, source: SourceT, cells: Tensor, generator: torch.Generator) -> BatchT:
        """Return what the monitor measures ``cells`` on; ``generator`` is the same at each reading."""
        return self.gather(source, cells)

    @float32_default()
    def loss(self, batch: BatchT, generator: torch.Generator | None = None) -> ObjectiveOutput:
        """Return the training loss of a batch; masks come from ``generator``."""
        return cast(ObjectiveOutput, self.objective(self.context, self.target, batch, generator))

    def train(self, mode: bool = True) -> Self:
        """Set training mode; the target encoder stays in evaluation mode (no dropout in targets)."""
        super().train(mode)
        self.target.eval()
        return self

    def encoder(self, name: str) -> Encoder:
        """Return the encoder of that name, ``"target"`` or ``"context"``."""
        if name not in ("target", "context"):
            raise ValueError(f"encoder must be 'target' or 'context', found {name!r}.")
        return self.target if name == "target" else self.context

    @torch.no_grad()
    def update_target(self, momentum: float) -> None:
        """Move the target encoder: target <- momentum · target + (1 - momentum) · context, in one fused call."""
        target: list[Tensor] = list(self.target.parameters())
        context = [p.detach() for p in self.context.parameters()]
        get_ema_multi_avg_fn(momentum)(target, context, 0)

    def parameter_counts(self) -> dict[str, int]:
        """Return exact parameter counts by part; ``total`` has every part, the EMA copy included."""
        counts = {
            "encoder": _count(self.context),
            "encoder_without_genes": _count(self.context) - _count(self.context.embedding.gene),
            "objective": _count(self.objective),
        }
        counts["trained"] = counts["encoder"] + counts["objective"]
        counts["total"] = counts["trained"] + _count(self.target)
        return counts


AnyModule: TypeAlias = JEPAModule[Any, Any]
"""A module of any model, for what works with all of them."""


def _count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())
