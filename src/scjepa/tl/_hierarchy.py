"""Labels that are terms of a hierarchy, such as the Cell Ontology: a cell gets the most specific one that is sure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

Parents: TypeAlias = "Mapping[str, str | Sequence[str]] | pd.DataFrame"
"""Parents of each term: a mapping, or a table with a row for each pair, the term and its parent."""

_MOST_NAMES = 5


class Hierarchy:
    """Terms and their parents, of which a term may have several.

    Parameters
    ----------
    parents
        Parent, or parents, of each term; a data frame has terms in its first column and a parent in its second. Terms
        without a parent need no row.

    Raises
    ------
    ValueError
        If a term is its own ancestor, or a table has not two columns.
    TypeError
        If ``parents`` is neither a mapping nor a table.
    """

    def __init__(self, parents: Parents) -> None:
        self.parents = _parents(parents)
        self._above: dict[str, frozenset[str]] = {}
        for term in self.parents:
            self._climb(term, ())

    @property
    def terms(self) -> list[str]:
        """All terms, sorted."""
        return sorted({*self.parents, *(parent for found in self.parents.values() for parent in found)})

    def above(self, term: str) -> frozenset[str]:
        """Return a term and all of its ancestors."""
        return self._above.get(term, frozenset({term}))

    def check(self, labels: Sequence[str]) -> None:
        """Refuse labels that are no terms.

        Raises
        ------
        ValueError
            With the labels, and terms that look like them.
        """
        terms = self.terms
        unknown = sorted(set(labels) - set(terms))
        if not unknown:
            return
        said = []
        for label in unknown[:_MOST_NAMES]:
            near = get_close_matches(label, terms, n=1)
            said.append(f"{label!r}" + (f" (did you mean {near[0]!r}?)" if near else ""))
        raise ValueError(
            f"{len(unknown)} labels are no terms of the hierarchy: {', '.join(said)}"
            f"{', ...' if len(unknown) > _MOST_NAMES else ''}. Add a row with their parent, or rename the labels."
        )

    def broad(self, labels: Sequence[str]) -> list[str]:
        """Return the labels that lie above others of them."""
        return sorted({above for label in labels for above in self.above(label) - {label}} & set(labels))

    def surest(self, labels: Sequence[str], probabilities: np.ndarray, least: float) -> np.ndarray:
        """Return the most specific term of each cell whose probability is ``least`` or more.

        Parameters
        ----------
        labels
            ``(n_labels,)`` terms.
        probabilities
            ``(n_cells, n_labels)``; that of a term is the sum over labels at or below it.
        least
            Probability that is wanted.

        Returns
        -------
        numpy.ndarray
            ``(n_cells,)`` texts, ``None`` where no term is that sure. Of terms as specific the more probable one.
        """
        terms = sorted({above for label in labels for above in self.above(label)})
        below = np.array([[term in self.above(label) for term in terms] for label in labels], dtype=np.float64)
        sure = probabilities @ below
        depth = np.array([len(self.above(term)) for term in terms], dtype=np.float64)
        rank = np.where(sure >= least, depth + np.minimum(sure, 1) / 2, -1.0)
        found = np.array([*terms, None], dtype=object)
        return found[np.where(rank.max(axis=1) < 0, len(terms), rank.argmax(axis=1))]

    def _climb(self, term: str, path: tuple[str, ...]) -> frozenset[str]:
        if term in path:
            circle = " -> ".join([*path[path.index(term) :], term])
            raise ValueError(f"The hierarchy has a circle: {circle}. A term cannot be its own ancestor.")
        if term not in self._above:
            found = {term}
            for parent in self.parents.get(term, ()):
                found |= self._climb(parent, (*path, term))
            self._above[term] = frozenset(found)
        return self._above[term]


def _parents(parents: Parents) -> dict[str, tuple[str, ...]]:
    if not isinstance(parents, Mapping) and hasattr(parents, "itertuples"):
        if parents.shape[1] != 2:
            raise ValueError(f"A table of parents has two columns, term and parent; found {list(parents.columns)}.")
        pairs = [(str(term), str(parent)) for term, parent in parents.dropna().itertuples(index=False)]
    elif isinstance(parents, Mapping):
        pairs = [
            (str(term), str(parent))
            for term, found in parents.items()
            for parent in ([found] if isinstance(found, str) else found or ())
        ]
    else:
        raise TypeError(
            f"hierarchy must be a mapping from each term to its parents, or a table of both; found {parents!r}."
        )
    found: dict[str, list[str]] = {}
    for term, parent in pairs:
        found.setdefault(term, []).append(parent)
    return {term: tuple(dict.fromkeys(own)) for term, own in found.items()}
