"""Is the model learning, or are its features dying? Measures, and a verdict in words.

A JEPA's loss can fall while its features collapse, so the loss alone is never the judge.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from scjepa.tokens.choice import TokenSpread
from scjepa.tokens.config import TokenConfig

COLLAPSED_RANK = 0.10
"""Effective rank below this share of the width counts as collapse."""
COLLAPSED_COSINE = 0.95
"""Mean pairwise cosine above this counts as collapse."""
LOST_RANK = 0.5
"""Effective rank below this share of its value before training counts as shrinking."""
NOT_LEARNING = 0.98
"""A run whose losses are all above this share of that of predicting the mean target counts as not learning."""
RATIOS = {
    "loss_ratio": "loss {:.2f} times that of predicting each gene's mean target",
    "cell_ratio": "loss at cells {:.2f} times that of predicting the mean cell",
    "neighborhood_ratio": "loss at neighborhoods {:.2f} times that of predicting the mean neighborhood",
    "nearby_ratio": "loss at nearby neighborhoods {:.2f} times that of predicting the mean neighborhood",
    "views_ratio": "views of one neighborhood or cell {:.2f} times as far apart as views of any",
}
"""How each predicted loss is told, by the name of its ratio in the history, which has those with a weight."""


def effective_rank(x: Tensor) -> Tensor:
    """Return RankMe of ``x`` (n, width): exp of the entropy of its centered singular values; 0 for constants."""
    values = torch.linalg.svdvals((x - x.mean(0)).float())
    total = values.sum()
    if total <= 1e-12 * max(1.0, float(x.abs().max())) * len(x):
        return torch.zeros((), device=x.device)
    share = values / total
    return torch.exp(-(share * torch.log(share.clamp_min(1e-12))).sum())


def mean_cosine(x: Tensor) -> Tensor:
    """Mean cosine over all pairs of different rows."""
    n = len(x)
    if n < 2:
        return torch.ones((), device=x.device)
    unit = torch.nn.functional.normalize(x.float(), dim=1)
    return (unit.sum(0).pow(2).sum() - unit.pow(2).sum()) / (n * (n - 1))


def gene_mean_loss(targets: Tensor, genes: Tensor, folds: Tensor, n_genes: int) -> tuple[Tensor, Tensor]:
    """L1 of predicting, for each token, the mean target of its gene in the other fold.

    Parameters
    ----------
    targets
        ``(n, width)``.
    genes
        ``(n,)`` vocabulary ids.
    folds
        ``(n,)`` 0 or 1; means come from the other fold, so a rare gene does not predict itself.
    n_genes
        Size of the vocabulary.

    Returns
    -------
    tuple
        Mean L1 over the tokens whose gene occurs in the other fold, and those tokens ``(n,)`` bool.
    """
    group = genes + n_genes * folds
    sums = torch.zeros(2 * n_genes, targets.shape[1], device=targets.device).index_add(0, group, targets)
    sizes = torch.bincount(group, minlength=2 * n_genes)
    other = genes + n_genes * (1 - folds)
    known = sizes[other] > 0
    means = sums[other[known]] / sizes[other[known], None]
    return (targets[known] - means).abs().mean(), known


_FIRST = {"untrained": "The model is not trained.", "same tokens": "The cells look alike to the model."}


@dataclass(frozen=True)
class Diagnosis:
    """A verdict on a training run.

    Attributes
    ----------
    verdict
        ``"healthy"``, ``"shrinking"``, ``"not learning"``, ``"collapsed"``, ``"same tokens"`` (whatever was learned, it
        was learned of genes that all cells share) or ``"untrained"``.
    evidence
        The figures it rests on, one sentence each.
    advice
        What to try, in order; empty when healthy.
    """

    verdict: str
    evidence: tuple[str, ...]
    advice: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = [_FIRST.get(self.verdict, f"Training looks {self.verdict}.")]
        lines += [f"  - {sentence}" for sentence in self.evidence]
        if self.advice:
            lines += ["What to try:", *(f"  {i}. {text}" for i, text in enumerate(self.advice, start=1))]
        return "\n".join(lines)


@dataclass(frozen=True)
class _Advice:
    """What to try, and the settings from which on that is done already: the part and name of each, and its value."""

    text: str
    done: tuple[tuple[str, str, float], ...] = ()

    def is_done(self, config: Any) -> bool:
        """Return whether a model's configuration has all the settings; without one nothing is known to be done."""
        return bool(self.done) and all(_set_to(config, *setting) for setting in self.done)


def _set_to(config: Any, part: str, name: str, least: float) -> bool:
    """Return whether an option is set to ``least`` or more; of several values the smallest counts."""
    value = getattr(getattr(config, part, None), name, None)
    if value is None:
        return False
    return min(value) >= least if isinstance(value, tuple) else value >= least


_GUARDS = ("variance_weight", "covariance_weight")
_SLOWER = _Advice("lower the learning rate by three, plan_kwargs={'learning_rate': ...}")
_SLOWER_OR_EMA = _Advice(_SLOWER.text + ", or start the EMA lower for a short run")
_SHORTER = _Advice("train for fewer steps, or lower the learning rate")

_ADVICE: dict[str, tuple[_Advice, ...]] = {
    "collapsed": (
        _Advice(
            "turn on the guards: objective={'variance_weight': 1.0, 'covariance_weight': 1.0}",
            tuple(("objective", guard, 1.0) for guard in _GUARDS),
        ),
        _SLOWER_OR_EMA,
        _Advice("masking={'ratio': 0.6}: a low mask ratio makes the task too easy", (("masking", "ratio", 0.6),)),
    ),
    "shrinking": (
        _Advice(
            "add or raise the guards: objective={'variance_weight': 1.0, 'covariance_weight': 4.0}",
            (("objective", "variance_weight", 1.0), ("objective", "covariance_weight", 4.0)),
        ),
        _SHORTER,
    ),
    "not learning": (
        _Advice("train longer, or raise the learning rate by three"),
        _Advice(
            "check that cells have tokens: np.ravel((adata.X > 0).sum(axis=1)) counts the genes that each expresses"
        ),
    ),
}

# On V1 more of SIGReg keeps more dimensions and loses niches, 0.1 NMI at 0.2 (docs/results.md): it comes last.
_MORE_SIGREG = _Advice(
    "give SIGReg a larger share, objective={'sigreg_share': 0.2}: more dimensions, but score the niches again",
    (("objective", "sigreg_share", 0.2),),
)
_ADVICE_OF_VIEWS = {
    **_ADVICE,
    "collapsed": (
        _Advice(
            "score the niches first: SIGReg works behind the projector, and few dimensions before may hold them all"
        ),
        _SLOWER,
        _Advice(
            "take larger batches, train(batch_size=128): SIGReg compares a batch with a Gaussian",
            (("training", "batch_size", 128),),
        ),
        _MORE_SIGREG,
    ),
    "shrinking": (_SHORTER, _MORE_SIGREG),
}
"""Of runs that compare views and have no teacher."""


_CELL_GUARDS = _Advice(
    "turn on the guards, or raise them, up to the size of what they guard: objective={'variance_weight': ..., "
    "'covariance_weight': ...}; model.config.objective has the weights of this run"
)
_ADVICE_OF_CELLS = {
    **_ADVICE,
    "collapsed": (
        _CELL_GUARDS,
        _SLOWER_OR_EMA,
        _Advice("masking={'ratio': 0.5}: a low mask ratio makes the task too easy", (("masking", "ratio", 0.5),)),
    ),
    "shrinking": (_CELL_GUARDS, _SHORTER),
}
"""Of dissociated cells, whose presets have guards of other sizes, and no SIGReg."""


def same_tokens_advice(config: TokenConfig) -> str:
    """Return what to try where the tokens of all cells are nearly the same genes; never what is set."""
    if config.ranks != "spatial_ratio":
        return "let the data choose the tokens: STJEPA(adata, tokens={'ranks': 'auto', 'left_out': 'auto'})"
    return f"give cells more tokens: STJEPA(adata, tokens={{'n_tokens': {4 * config.n_tokens}}})"


def diagnose(
    history: Mapping[str, Sequence[float]],
    width: int,
    of: str = "neighborhoods",
    config: Any = None,
    tokens: TokenSpread | None = None,
) -> Diagnosis:
    """Judge a run by what its cells' tokens are, first, and by its monitor.

    Parameters
    ----------
    history
        Values over training, first to last, of ``effective_rank``, ``mean_cosine`` and the losses in :data:`RATIOS`,
        of which it is enough that one is better than predicting the mean.
    width
        Embedding width.
    of
        What was embedded, in the plural.
    config
        The model's configuration, so that nothing is advised that is set already.
    tokens
        Over how many genes the tokens of the model's cells spread.

    Returns
    -------
    Diagnosis
        Verdict, evidence and advice; ``str()`` of it reads well.
    """
    same = tokens is not None and tokens.same
    found = (f"the tokens of all cells are nearly the same genes: {tokens}",) if same else ()
    advised = (same_tokens_advice(config.tokens),) if same and config is not None else ()
    ranks = list(history.get("effective_rank", ()))
    if not ranks:
        return Diagnosis("untrained", (*found, "No monitor values were recorded."), (*advised, "call model.train()"))
    rank, first = ranks[-1], ranks[0]
    evidence = [*found, f"effective rank {rank:.1f} of {width} dimensions ({first:.1f} before training)"]
    cosine = next(iter(list(history.get("mean_cosine", ()))[-1:]), None)
    ratios = {name: float(values[-1]) for name in RATIOS if (values := list(history.get(name, ())))}
    if cosine is not None:
        evidence.append(f"mean cosine between {of} {cosine:.2f}")
    for name, ratio in ratios.items():
        evidence.append(RATIOS[name].format(ratio) + (", not learned yet" if ratio > NOT_LEARNING else ""))
    if rank < COLLAPSED_RANK * width or (cosine is not None and cosine > COLLAPSED_COSINE):
        verdict = "collapsed"
    elif ratios and min(ratios.values()) > NOT_LEARNING:
        verdict = "not learning"
    elif rank < LOST_RANK * first:
        verdict = "shrinking"
    else:
        verdict = "healthy"
    advice = _ADVICE_OF_VIEWS if set(ratios) == {"views_ratio"} else _ADVICE
    if of == "cells":
        advice = _ADVICE_OF_CELLS
    further = tuple(each.text for each in advice.get(verdict, ()) if not each.is_done(config))
    return Diagnosis("same tokens" if same else verdict, tuple(evidence), (*advised, *further))
