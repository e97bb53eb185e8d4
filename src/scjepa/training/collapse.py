"""Is the model learning, or are its features dying? A verdict in words on what the monitor measured.

A JEPA's loss can fall while its features collapse, so the loss alone is never the judge.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scjepa._core.html import as_html
from scjepa.nn.jepa import Objective
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


RATIO = "_ratio"
"""How the names of ratios end."""

_FIRST = {
    "healthy": "Training looks healthy: nothing has collapsed, and something was learned.",
    "not learning": "Nothing was learned yet.",
    "same tokens": "The cells look alike to the model.",
    "untrained": "The model is not trained.",
}


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

    _repr_html_ = as_html

    def __str__(self) -> str:
        lines = [_FIRST.get(self.verdict, f"Training looks {self.verdict}.")]
        lines += [f"  - {sentence}" for sentence in self.evidence]
        if self.advice:
            lines += ["What to try:", *(f"  {i}. {text}" for i, text in enumerate(self.advice, start=1))]
        return "\n".join(lines)


def same_tokens_advice(config: TokenConfig) -> str:
    """Return what to try where the tokens of all cells are nearly the same genes; never what is set."""
    if config.ranks != "spatial_ratio":
        return "let the data choose the tokens: STJEPA(adata, tokens={'ranks': 'auto', 'left_out': 'auto'})"
    return f"give cells more tokens: STJEPA(adata, tokens={{'n_tokens': {4 * config.n_tokens}}})"


def diagnose(
    history: Mapping[str, Sequence[float]],
    width: int,
    of: str = "neighborhoods",
    config: object = None,
    tokens: TokenSpread | None = None,
    objective: Objective | type[Objective] = Objective,
) -> Diagnosis:
    """Judge a run by what its cells' tokens are, first, and by its monitor.

    Parameters
    ----------
    history
        Values over training, first to last, of ``effective_rank``, ``mean_cosine`` and the ratios of losses
        (``"<name>_ratio"``), of which it is enough that one is better than knowing nothing.
    width
        Embedding width.
    of
        What was embedded, in the plural.
    config
        The model's configuration, so that nothing is advised that is set already.
    tokens
        Over how many genes the tokens of the model's cells spread.
    objective
        What was trained for: it says what its ratios mean, and what to try.

    Returns
    -------
    Diagnosis
        Verdict, evidence and advice; ``str()`` of it reads well.
    """
    same = tokens is not None and tokens.same
    found = (f"the tokens of all cells are nearly the same genes: {tokens}",) if same else ()
    rule = getattr(config, "tokens", None)
    advised = (same_tokens_advice(rule),) if same and isinstance(rule, TokenConfig) else ()
    ranks = list(history.get("effective_rank", ()))
    if not ranks:
        return Diagnosis("untrained", (*found, "No monitor values were recorded."), (*advised, "call model.train()"))
    rank, first = ranks[-1], ranks[0]
    evidence = [*found, f"effective rank {rank:.1f} of {width} dimensions ({first:.1f} before training)"]
    cosine = next(iter(list(history.get("mean_cosine", ()))[-1:]), None)
    if cosine is not None:
        evidence.append(f"mean cosine between {of} {cosine:.2f}")
    ratios = {name.removesuffix(RATIO): list(history[name]) for name in history if name.endswith(RATIO)}
    last = {name: float(values[-1]) for name, values in ratios.items() if values}
    for name in sorted(last, key=[*objective.ratios, *last].index):
        told = objective.ratios[name].sentence if name in objective.ratios else f"ratio of {name} {{:.2f}}"
        evidence.append(told.format(last[name]) + (", no gain yet" if last[name] > NOT_LEARNING else ""))
    if rank < COLLAPSED_RANK * width or (cosine is not None and cosine > COLLAPSED_COSINE):
        verdict = "collapsed"
    elif last and min(last.values()) > NOT_LEARNING:
        verdict = "not learning"
    elif rank < LOST_RANK * first:
        verdict = "shrinking"
    else:
        verdict = "healthy"
    further = tuple(each.text for each in objective.advice.get(verdict, ()) if not each.is_done(config))
    return Diagnosis("same tokens" if same else verdict, tuple(evidence), (*advised, *further))
