"""The history of a model: what its runs recorded, one after the other."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from scjepa.training.history import History


def frame(name: str, steps: Sequence[int], values: Sequence[float]) -> pd.DataFrame:
    """Return the values of a name by step."""
    return pd.DataFrame({name: values}, index=pd.Index(steps, name="step"))


def extend(before: dict[str, pd.DataFrame] | None, history: History, offset: int) -> dict[str, pd.DataFrame]:
    """Return the history with a further run appended, its steps counted on from ``offset``.

    What it has beyond ``offset`` goes: it is of the same run, which was taken up from an earlier state.
    """
    after = {name: own[own.index <= offset] for name, own in (before or {}).items() if offset}
    for name, values in history.values.items():
        own = frame(name, [step + offset for step in history.steps[name]], values)
        after[name] = pd.concat([after[name], own]) if name in after else own
    return after
