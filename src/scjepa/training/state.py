"""What a state of training is the state of: kept in each checkpoint, and compared before one is taken up."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from scjepa._core.warn import warn

MARKS = "scjepa_marks"
"""Entry of a checkpoint that says what was trained on what, by name."""

MAY_DIFFER = ("max_steps", "max_epochs")
"""Options of training that a run may go on with at another value: it is made longer or shorter."""


def flat(options: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested options by one name each, ``{"tokens.n_tokens": 64}``."""
    found: dict[str, Any] = {}
    for name, value in options.items():
        if isinstance(value, Mapping):
            found.update(flat(value, f"{prefix}{name}."))
        else:
            found[f"{prefix}{name}"] = list(value) if isinstance(value, tuple) else value
    return found


def check_marks(checkpoint: Mapping[str, Any], own: Mapping[str, Any], name: str) -> None:
    """Refuse a state of training that is that of other data or of another model.

    Parameters
    ----------
    checkpoint
        What was kept.
    own
        What is to be trained on what: digests and options by name.
    name
        What the checkpoint is called in errors.

    Raises
    ------
    ValueError
        If they differ, with the names of what does.

    Warns
    -----
    UserWarning
        If the state does not say, having been written before states did.
    """
    kept = checkpoint.get(MARKS)
    if not own:
        return
    if kept is None:
        warn(
            f"{name} does not say what it was trained on, so nothing tells whether it is the state of these cells and "
            "genes. If it is not, name another checkpoint_dir, or leave ckpt_path out."
        )
        return
    differ = [mark for mark in own if kept.get(mark) != own[mark]]
    if differ:
        differences = "; ".join(_difference(mark, kept, own) for mark in differ[:5])
        raise ValueError(
            f"{name} is the state of another training: {differences}. "
            "Name another checkpoint_dir for this one, or leave ckpt_path out to begin anew."
        )


def _difference(mark: str, kept: Mapping[str, Any], own: Mapping[str, Any]) -> str:
    if mark in DIGESTS:
        return f"its {mark} are not those of this data"
    return f"its {mark} is {kept.get(mark)!r}, here it is {own[mark]!r}"


DIGESTS = ("genes", "cells or counts", "labels", "training cells", "gene modules")
"""Marks that are checksums, which say nothing to people."""
