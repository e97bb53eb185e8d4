"""What a column says of each cell: a text, or nothing; and the words by which people say nothing."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from scjepa._core.anndata import text_of
from scjepa._core.keys import UNLABELLED
from scjepa._core.warn import warn

if TYPE_CHECKING:
    import pandas as pd

_TEXTS_OF_NONE = frozenset({"", "nan", "na", "n/a", "<na>", "none", "null", "nat"})
"""What missing values become when a column is turned into text, in lower case."""

_WORDS_OF_NONE = frozenset(
    {"unknown", "unassigned", "unclassified", "undefined", "undetermined", "unannotated", "not assigned", "no label"}
)
"""Words that most people mean by "no label", and some by a group of their own, in lower case."""


def labels_of(column: pd.Series) -> np.ndarray:
    """Return the labels of cells as text, ``None`` for cells without: missing values, and ``"unlabelled"``."""
    text = text_of(column)
    text[np.isin(text.astype(str), UNLABELLED) & (text != None)] = None  # noqa: E711 - of each element
    return text


def means_none(word: str, *, surely: bool = False) -> bool:
    """Return whether ``word`` may mean "no label"; ``surely``: it is what missing values become as text."""
    plain = word.strip().casefold()
    return plain in _TEXTS_OF_NONE or (not surely and plain in _WORDS_OF_NONE)


def warn_of_words(labels: Iterable[Any], what: str, key: str | None = None, *, surely: bool = False) -> None:
    """Warn of words that may mean "no label" and count as labels of their own.

    Parameters
    ----------
    labels
        Label of each cell, ``None`` for none.
    what
        What a label is, such as ``"label"`` or ``"technology"``.
    key
        Column of ``obs`` that they are in; ``None``: they are no column.
    surely
        Whether to tell only of what missing values become as text.
    """
    import pandas as pd

    values = np.asarray(labels, dtype=object)
    doubtful = [name for name in pd.unique(values) if isinstance(name, str) and means_none(name, surely=surely)]
    for name in sorted(doubtful):
        then = f"make it missing (NaN), or pass ignore=[{name!r}]."
        if key is not None:
            then = f"adata.obs[{key!r}] = adata.obs[{key!r}].where(adata.obs[{key!r}] != {name!r})."
        warn(
            f"{(values == name).sum():,} cells have the {what} {name!r}, a text that counts as one of its own. If it "
            f"means none: {then}"
        )
