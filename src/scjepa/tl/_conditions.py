"""What differs between conditions, with samples as units: shares of niches, what is in them, borders, expression."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from importlib.metadata import version
from importlib.util import find_spec
from itertools import combinations, permutations
from math import comb
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from scjepa._core import keys as _keys
from scjepa._core.anndata import categories_of, column_of, counts_of, entry_of, labels_of, names_of, niches_of
from scjepa._core.arrays import members
from scjepa._core.counts import check_of, read_counts
from scjepa._core.graph import edges_of, graph_call, refuse_across, section_key_of, spatial_graph_of
from scjepa._core.matching import contingency
from scjepa._core.options import unknown_name
from scjepa._core.plain import seed_of, whole
from scjepa._core.warn import warn

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from scipy.sparse import csr_matrix


_FEWEST = 3
"""Samples of each condition without which nothing is tested."""

_PSEUDO = 0.5
"""What is added to every count before a logarithm: half a cell, an edge or a molecule."""

_DOUBLING = 1.0
"""Effect whose power is given, in log2."""


_LEVEL = 0.05

_ROOM = 4
"""By how much the smallest p-value must lie below what Benjamini and Hochberg ask of one feature alone."""

PYDESEQ2, SCCODA = "pydeseq2", "sccoda"
_PYDESEQ2_FROM = (0, 5, 4)
"""Earlier ones (0.5.0 was tried) end in an IndexError with anndata 0.12."""

SHARES, COMPOSITION, CONTACTS, EXPRESSION = "shares", "composition", "contacts", "expression"

PERMUTATION, WELCH = "permutation", "welch"

_SIMULATED = 1_000
"""Pairs of groups that are drawn for each size of an effect."""

_SIZES = np.array([0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 2.5, 3.0, 4.0, 6.0, 10.0, 100.0])
"""Effects, in standard deviations between samples, at which power is simulated; between them it is interpolated."""

_SPLITS_FOR_POWER = 500
"""Splits of a permutation test while power is simulated."""

_VALUES = 2**22
"""Splits × features that are held at one time."""

_TIE = 1e-9
"""Share by which differences may fall apart by rounding and still count as equal."""


def differential_niches(
    adata: AnnData,
    condition_key: str,
    sample_key: str,
    niche_key: str = _keys.NICHE,
    *,
    what: str = SHARES,
    conditions: tuple[str, str] | None = None,
    method: str | None = None,
    cell_type_key: str = _keys.CELL_TYPE,
    layer: str | None = None,
    neighbors_key: str = _keys.SPATIAL,
    min_cells: int = 10,
    n_permutations: int = 10_000,
    random_state: int = 0,
) -> pd.DataFrame:
    """Compare two conditions, samples (patients, animals) as units, never cells.

    Cells of one sample are no independent observations: taken as such, nearly any two groups of patients differ. Here
    each sample gives one number per feature, and whole samples are permuted between the conditions, all ways where
    there are few. Nothing is tested below three samples of a condition.

    Parameters
    ----------
    adata
        Annotated data with niches; nothing is written to it.
    condition_key
        Column of ``adata.obs`` with the condition. Samples whose cells all have none are left out.
    sample_key
        Column of ``adata.obs`` with the unit that was assigned to a condition: the patient, not the section, where a
        patient has several.
    niche_key
        Column of ``adata.obs`` with niches that all samples share. Cells without one are left out.
    what
        ``"shares"``: of niches among the cells of a sample. ``"composition"``: of cell types among the cells of each
        niche. ``"contacts"``: which niche borders which, beyond what the borders of both let expect
        (:func:`contact_enrichment`). ``"expression"``: counts of each gene, summed over the cells of a niche.
    conditions
        The two to compare, reference first. Default: those there are, in the order of categories.
    method
        ``"permutation"`` of samples, ``"welch"`` (t-test); for ``"shares"`` ``"sccoda"`` (Büttner et al. 2021, by
        pertpy), for ``"expression"`` ``"pydeseq2"``, where these packages are installed. Default: permutation; for
        ``"expression"`` pydeseq2 where it is installed, else Welch. Of three and three samples permutation has no
        p-value below 0.1, of four and four none below 0.03.
    cell_type_key
        Column of cell types, for ``"composition"``.
    layer
        Layer of raw counts, for ``"expression"``. Default: ``X``.
    neighbors_key
        squidpy's ``key_added``, for ``"contacts"``. No edge may join two samples, nor two sections where
        ``adata.obs`` has a column ``"section"``.
    min_cells
        Cells that a niche must have in a sample for its composition, contacts or expression there to be used.
    n_permutations
        Splits of the samples: all where there are at most so many, else as many at random.
    random_state
        Seed of these.

    Returns
    -------
    pandas.DataFrame
        A row for each niche and feature, smallest p-value first: ``niche``; ``feature`` (cell type, niche or gene;
        not of shares); ``n_reference`` and ``n_other``, samples used; ``difference``, the second condition less the
        first, in log2; ``spread``, standard deviation between samples of a condition; ``p_value``; ``p_adjusted``;
        ``power``, the chance that a doubling (difference 1) has a p-value of 0.05 or less with so many samples of this
        spread, by simulation. Shares and composition are centered log-ratios, expression log2 counts per million; half
        a cell, edge or molecule is added to each count. A log-ratio is relative: where one niche grows, the others
        shrink a little. Shares and composition are tested with the mean share of all samples added to each share in
        place of half a cell, so that parts which some samples lack have less noise. With scCODA ``difference`` is its
        log2-fold change, there are no p-values, and ``inclusion_probability`` and ``credible`` (false discovery rate
        0.05) are in their place. ``attrs`` has the method, the adjustment and the conditions.

        The adjustment is that of Benjamini and Hochberg over all rows. Where permutation of so few samples could hardly
        get below 0.05 by it in so many rows, it is that of Westfall and Young: each statistic is compared with the
        largest of all rows, whole samples permuted, which holds the chance of any false finding.

    Warns
    -----
    UserWarning
        If samples without a condition or cells without a niche are left out, or permutation cannot give a p-value of
        0.05.

    Raises
    ------
    KeyError
        If a column or the graph is not there.
    ImportError
        If the method needs a package that is not installed.
    ValueError
        If a condition has fewer than three samples, a sample has several conditions, there are not two conditions, one
        niche leaves nothing to compare, or an option is not known.

    Examples
    --------
    >>> scjepa.tl.differential_niches(adata, "treatment", "patient")
    >>> scjepa.tl.differential_niches(adata, "treatment", "patient", what="composition", cell_type_key="cell_type")
    """
    import pandas as pd

    method = _method(what, method)
    cohort = _Cohort.of(adata, condition_key, sample_key, niche_key, conditions)
    whole("n_permutations", n_permutations, least=20)
    whole("min_cells", min_cells, least=1)
    seed = seed_of(random_state)
    n_first, n_second = cohort.sizes
    least = smallest_p(n_first, n_second, n_permutations)
    if method == PERMUTATION and least > _LEVEL:
        warn(
            f"Permutation of {n_first} and {n_second} samples has no p-value below {least:.2g}: four a side reach "
            "0.03, five 0.008. method='welch' can, and assumes Gaussian log-ratios."
        )
    readers: dict[str, Callable[[], Iterator[_Block]]] = {
        SHARES: lambda: _shares(cohort),
        COMPOSITION: lambda: _composition(adata, cohort, cell_type_key, min_cells),
        CONTACTS: lambda: _contacts(adata, cohort, neighbors_key, sample_key, min_cells),
        EXPRESSION: lambda: _expression(adata, cohort, layer, min_cells),
    }
    blocks = list(readers[what]())
    if not any(block.features for block in blocks):
        counted = " and a molecule of each" if what == EXPRESSION else ""
        raise ValueError(
            f"There is nothing to compare: no niche has {min_cells} cells of a sample{counted} (what={what!r}). "
            "Take fewer, min_cells=..., or compare shares: what='shares'."
        )
    table = pd.concat([_tested(block, cohort, method, n_permutations, seed) for block in blocks], ignore_index=True)
    if what == SHARES:
        table = table.drop(columns="feature")
    found = table["p_value"].to_numpy()
    jointly = method == PERMUTATION and _ROOM * least * np.isfinite(found).sum() > _LEVEL
    adjusted = _jointly(blocks, cohort, n_permutations, seed) if jointly else _adjusted(found)
    table.insert(table.columns.get_loc("p_value") + 1, "p_adjusted", np.fmax(adjusted, found))
    by = ["p_value"] if method != SCCODA else ["credible", "inclusion_probability"]
    table = table.sort_values(by, ascending=method != SCCODA, kind="stable", ignore_index=True)
    table.attrs = {"what": what, "method": method, "conditions": list(cohort.conditions), "sample_key": sample_key}
    table.attrs["adjustment"] = "Westfall-Young" if jointly else "Benjamini-Hochberg"
    return table


def contact_enrichment(counts: np.ndarray) -> np.ndarray:
    """Return how much oftener than expected a niche borders another, in log2.

    A niche with a long border touches all others more. The edges that leave niche a for others are expected to be
    shared by these as their own borders are: ``leaving[a] · entering[b] / Σ entering[c ≠ a]``. It is not symmetric: a
    thin layer may have all its border with a niche that it is a small part of the border of.

    Parameters
    ----------
    counts
        Edges from niches in rows to niches in columns, such as ``niche_interactions(adata).counts``.

    Returns
    -------
    numpy.ndarray
        ``log2((count + ½) / (expected + ½))`` of the same shape; NaN on the diagonal, and in rows of niches that touch
        no other.

    Raises
    ------
    ValueError
        If ``counts`` is no square table, or one is negative.

    Examples
    --------
    >>> scjepa.tl.contact_enrichment(scjepa.tl.niche_interactions(adata).counts)
    """
    counts = np.asarray(counts)
    if counts.ndim != 2 or counts.shape[0] != counts.shape[1] or not (counts >= 0).all():
        raise ValueError(
            "counts must be a square table of edges from niche to niche, none negative, such as "
            f"scjepa.tl.niche_interactions(adata).counts; found the shape {counts.shape}."
        )
    others = np.where(np.eye(len(counts), dtype=bool), 0, np.asarray(counts, dtype=np.float64))
    leaving, entering = others.sum(axis=1), others.sum(axis=0)
    rest = entering.sum() - entering
    share = np.divide(entering[None, :], rest[:, None], out=np.zeros_like(others), where=rest[:, None] > 0)
    found = np.log2((others + _PSEUDO) / (leaving[:, None] * share + _PSEUDO))
    found[leaving == 0] = np.nan
    np.fill_diagonal(found, np.nan)
    return found


# -- samples ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Cohort:
    """Samples of two conditions, the reference first.

    Attributes
    ----------
    samples
        (n_cells,) sample of each cell, -1 for cells that are left out.
    niches
        (n_cells,) niche of each cell.
    names
        Names of the niches.
    sample_names
        Names of the samples.
    conditions
        The two.
    sizes
        Samples of each.
    """

    samples: np.ndarray
    niches: np.ndarray
    names: list[str]
    sample_names: list[str]
    conditions: tuple[str, str]
    sizes: tuple[int, int]

    @classmethod
    def of(
        cls,
        adata: AnnData,
        condition_key: str,
        sample_key: str,
        niche_key: str,
        conditions: Sequence[str] | None,
    ) -> _Cohort:
        """Read niches, samples and their conditions; refuse what cannot be compared."""
        niches = niches_of(adata, niche_key)
        condition_of = _conditions_of(adata, condition_key, sample_key)
        pair = _pair(adata, condition_of, condition_key, conditions)
        groups = [[sample for sample, one in condition_of.items() if one == name] for name in pair]
        sizes = (len(groups[0]), len(groups[1]))
        if min(sizes) < _FEWEST:
            found = ", ".join(f"{name!r} {size}" for name, size in zip(pair, sizes, strict=True))
            raise ValueError(
                f"Each condition in adata.obs[{condition_key!r}] needs {_FEWEST} samples or more to be compared; found "
                f"{found} (in adata.obs[{sample_key!r}]). Cells or sections of one sample do not count as samples. "
                "Add samples, or describe without a test: scjepa.tl.niche_composition(adata, "
                f"{sample_key!r}, by={niche_key!r})."
            )
        order = [*groups[0], *groups[1]]
        at = {sample: number for number, sample in enumerate(order)}
        samples = np.array([at.get(name, -1) for name in names_of(adata, sample_key)])
        read = np.where(niches.codes < 0, -1, samples)
        empty = [order[number] for number in np.setdiff1d(np.arange(len(order)), read)]
        if empty:
            raise ValueError(f"No cell of the sample {empty[0]!r} has a niche in adata.obs[{niche_key!r}].")
        _warn_of_cells_without(niches, samples, order, niche_key)
        return cls(read, np.asarray(niches.codes), list(niches.categories), order, pair, sizes)

    @property
    def n_samples(self) -> int:
        """Samples of both conditions."""
        return len(self.sample_names)

    def of_each(self, used: np.ndarray) -> tuple[int, int]:
        """Return how many of the samples that are used each condition has."""
        return int(used[: self.sizes[0]].sum()), int(used[self.sizes[0] :].sum())


def _warn_of_cells_without(niches: pd.Categorical, samples: np.ndarray, names: list[str], niche_key: str) -> None:
    """Warn of cells without a niche, and where samples lack most."""
    compared = samples >= 0
    share = np.bincount(samples[compared], niches.codes[compared] < 0, len(names)) / np.bincount(samples[compared])
    if share.any():
        number = int((niches.codes[compared] < 0).sum())
        most, least = names[int(share.argmax())], names[int(share.argmin())]
        warn(
            f"{number:,} of {compared.sum():,} cells have no niche in adata.obs[{niche_key!r}] and are left out: "
            f"{share.min():.0%} in sample {least!r} to {share.max():.0%} in {most!r}. Where conditions lack different "
            "cells, what is compared differs by that alone."
        )


def _conditions_of(adata: AnnData, condition_key: str, sample_key: str) -> dict[str, str]:
    """Return the condition of each sample, in the order of their names; those without one are left out."""
    import pandas as pd

    labels = pd.Series(labels_of(column_of(adata, condition_key)))
    by_sample = labels.groupby(names_of(adata, sample_key))
    several = by_sample.nunique(dropna=False)
    if (several > 1).any():
        first = several.index[several > 1][0]
        found = sorted({"none" if pd.isna(one) else repr(one) for one in by_sample.get_group(first)})
        raise ValueError(
            f"Sample {first!r} (adata.obs[{sample_key!r}]) has cells of several conditions in "
            f"adata.obs[{condition_key!r}]: {', '.join(found)}. A sample has one; name the column of the units that "
            "were assigned to conditions."
        )
    condition = by_sample.first()
    without = [sample for sample, one in condition.items() if pd.isna(one)]
    if without:
        warn(f"Samples without a condition in adata.obs[{condition_key!r}] are left out: {', '.join(without)}.")
    return {str(sample): str(one) for sample, one in condition.items() if not pd.isna(one)}


def _pair(
    adata: AnnData, condition_of: dict[str, str], condition_key: str, conditions: Sequence[str] | None
) -> tuple[str, str]:
    there = set(condition_of.values())
    column = adata.obs[condition_key]
    known = [str(name) for name in column.cat.categories] if hasattr(column, "cat") else sorted(there)
    names = [name for name in known if name in there]
    if conditions is None and len(names) == 2:
        return names[0], names[1]
    listed = ", ".join(map(repr, names)) or "none"
    if len(names) < 2 or conditions is None:
        then = "Name two, reference first: conditions=(..., ...)."
        if len(names) < 2:
            then = (
                "Add samples of the other, or describe the samples at hand: scjepa.tl.niche_composition(adata, by=...)."
            )
        raise ValueError(
            f"Two conditions are compared; adata.obs[{condition_key!r}] has {len(names)}: {listed}. {then}"
        )
    pair = [conditions] if isinstance(conditions, str) else [str(name) for name in conditions]
    if len(pair) != 2 or len(set(pair)) != 2 or not set(pair) <= there:
        raise ValueError(f"conditions must name two of {listed}, found {conditions!r}.")
    return pair[0], pair[1]


def _method(what: str, method: str | None) -> str:
    if what not in (SHARES, COMPOSITION, CONTACTS, EXPRESSION):
        raise ValueError(unknown_name("what", what, (SHARES, COMPOSITION, CONTACTS, EXPRESSION)))
    further = {EXPRESSION: (PYDESEQ2, "pydeseq2"), SHARES: (SCCODA, "pertpy")}
    known = [PERMUTATION, WELCH, *further.get(what, ())[:1]]
    if method is None:
        return PERMUTATION if what != EXPRESSION else PYDESEQ2 if _is_there(PYDESEQ2) else WELCH
    if method not in known:
        raise ValueError(unknown_name(f"method of {what!r}", method, known))
    if method not in (PERMUTATION, WELCH):
        package = further[what][1]
        if not _is_there(package):
            extra = "pertpy[coda]" if package == "pertpy" else "pydeseq2>=" + ".".join(map(str, _PYDESEQ2_FROM))
            raise ImportError(f"method={method!r} needs {extra}: pip install '{extra}'. Or method='welch'.")
    return method


def _is_there(package: str) -> bool:
    """Return whether a package is installed, pydeseq2 in a version that works with this anndata."""
    if not find_spec(package):
        return False
    return package != PYDESEQ2 or tuple(map(int, re.findall(r"\d+", version(package))[:3])) >= _PYDESEQ2_FROM


# -- what is compared ------------------------------------------------------------------------------------------------


class _Block(NamedTuple):
    """Features of one niche, or of all: values of the samples that are used, (n_samples, n_features), the first first.

    ``niches`` and ``features`` name each column; ``used`` tells which samples; ``counts`` are what the values are of;
    ``tested`` is what is compared, and ``doubling`` what a doubling is there.
    """

    values: np.ndarray
    niches: list[str]
    features: list[str]
    used: np.ndarray
    counts: np.ndarray
    tested: np.ndarray
    doubling: float | np.ndarray = _DOUBLING


def _log_ratios(counts: np.ndarray) -> np.ndarray:
    """Return log2 of counts and half a cell, less its mean over the parts: centered log-ratios."""
    logs = np.log2(counts + _PSEUDO)
    return logs - logs.mean(axis=1, keepdims=True)


def _damped(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return centered log-ratios of shares to which the mean share over all samples is added, and what a doubling is.

    A doubling is from two thirds of a share to four thirds of it, in the mean over samples. A part that a sample lacks
    is then one step away, and not as far as its depth goes: rare parts, which are there or not by chance, have less
    noise.
    """
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    mean = shares.mean(axis=0)
    logs = np.log2(shares + mean)
    doubling = (np.log2(shares * 4 / 3 + mean) - np.log2(shares * 2 / 3 + mean)).mean(axis=0)
    return logs - logs.mean(axis=1, keepdims=True), doubling


def _shares(cohort: _Cohort) -> Iterator[_Block]:
    if len(cohort.names) < 2:
        raise ValueError(f"There is one niche, {cohort.names[0]!r}: its share is 1 in every sample. Find more niches.")
    counts = contingency(cohort.samples, cohort.niches, (cohort.n_samples, len(cohort.names)))
    there = counts.sum(axis=0) > 0
    names = [name for name, kept in zip(cohort.names, there, strict=True) if kept]
    counts = counts[:, there]
    used = np.ones(cohort.n_samples, dtype=bool)
    yield _Block(_log_ratios(counts), names, names, used, counts, *_damped(counts))


def _composition(adata: AnnData, cohort: _Cohort, key: str, min_cells: int) -> Iterator[_Block]:
    types = categories_of(adata, key)
    for number, niche in enumerate(cohort.names):
        samples = np.where(cohort.niches == number, cohort.samples, -1)
        counts = contingency(samples, np.asarray(types.codes), (cohort.n_samples, len(types.categories)))
        used = counts.sum(axis=1) >= min_cells
        there = counts[used].sum(axis=0) > 0
        if not there.any():
            continue
        features = [name for name, kept in zip(types.categories, there, strict=True) if kept]
        kept = counts[used][:, there]
        names = [niche] * len(features)
        yield _Block(_log_ratios(kept), names, features, used, kept, *_damped(kept))


def _contacts(adata: AnnData, cohort: _Cohort, neighbors_key: str, sample_key: str, min_cells: int) -> Iterator[_Block]:
    if len(cohort.names) < 2:
        raise ValueError(f"There is one niche, {cohort.names[0]!r}: it has no border with another. Find more niches.")
    edges = _edges_within(adata, neighbors_key, sample_key).tocoo()
    n_niches = len(cohort.names)
    counts = np.zeros((cohort.n_samples, n_niches, n_niches), dtype=np.int64)
    both = (cohort.samples[edges.row] >= 0) & (cohort.samples[edges.col] >= 0)
    row, col = edges.row[both], edges.col[both]
    np.add.at(counts, (cohort.samples[row], cohort.niches[row], cohort.niches[col]), 1)
    cells = contingency(cohort.samples, cohort.niches, (cohort.n_samples, n_niches))
    enriched = np.array([contact_enrichment(one) for one in counts])
    for one, other in permutations(range(n_niches), 2):
        used = (cells[:, one] >= min_cells) & (cells[:, other] >= min_cells) & np.isfinite(enriched[:, one, other])
        if counts[used, one, other].any():
            values = enriched[used, one, other][:, None]
            names = [cohort.names[one]], [cohort.names[other]]
            yield _Block(values, *names, used, counts[used, one, other][:, None], values)


def _edges_within(adata: AnnData, neighbors_key: str, sample_key: str) -> csr_matrix:
    """Return the graph, no edge of which joins two samples or sections.

    A graph by sample would join the sections of a sample, so an error says how to compute one of both.
    """
    section_key = section_key_of(adata, None) or sample_key
    samples, sections = names_of(adata, sample_key), names_of(adata, section_key)
    pieces = samples + " " + sections
    if len(set(pieces)) == len(set(sections)):  # each section is of one sample
        return spatial_graph_of(adata, neighbors_key, section_key)
    column = "sample_section"
    parts = " + ' ' + ".join(f"adata.obs[{key!r}].astype(str)" for key in (sample_key, section_key))
    call = f"adata.obs[{column!r}] = ({parts}).astype('category'); " + graph_call(
        adata, column, neighbors_key=neighbors_key
    )
    key = f"{neighbors_key}_connectivities"
    graph = edges_of(entry_of(adata, "obsp", key, f"Compute the spatial graph first: {call}"))
    edges = graph.tocoo()
    refuse_across(edges.row, edges.col, pieces, adata.obs_names, f"adata.obsp[{key!r}]", call)
    return graph


def _expression(adata: AnnData, cohort: _Cohort, layer: str | None, min_cells: int) -> Iterator[_Block]:
    counts = read_counts(counts_of(adata, layer), check=check_of(adata, layer))
    genes = adata.var_names.astype(str).to_numpy()
    for number, niche in enumerate(cohort.names):
        cells = np.flatnonzero((cohort.niches == number) & (cohort.samples >= 0))
        of = members(cohort.samples[cells], cohort.n_samples)
        used = np.asarray(of.sum(axis=1)).ravel() >= min_cells
        sums = (of @ counts[cells]).toarray()[used]
        seen = sums.sum(axis=0) >= max(1, len(sums))  # a molecule a sample, or nothing can be said
        sums = sums[:, seen]
        per_million = np.log2((sums + _PSEUDO) / (sums.sum(axis=1, keepdims=True) + 1) * 1e6)
        yield _Block(per_million, [niche] * int(seen.sum()), list(genes[seen]), used, sums, per_million)


# -- tests -----------------------------------------------------------------------------------------------------------


def _tested(block: _Block, cohort: _Cohort, method: str, n_permutations: int, seed: int) -> pd.DataFrame:
    """Return the rows of a block; without p-values where fewer than three samples of a condition are used."""
    import pandas as pd

    n_first, n_second = cohort.of_each(block.used)
    columns = {"niche": block.niches, "feature": block.features, "n_reference": n_first, "n_other": n_second}
    not_tested = columns | dict.fromkeys(("difference", "spread", "p_value", "power"), np.nan)
    if min(n_first, n_second) < _FEWEST or not block.features:
        return pd.DataFrame(not_tested)
    values = block.values
    if method == PYDESEQ2:
        found = _by_pydeseq2(block, n_first)
        difference, p_value = found["log2FoldChange"].to_numpy(), found["pvalue"].to_numpy()
    elif method == SCCODA:
        found = _by_sccoda(block, n_first, seed)
        more = {name: found[name].to_numpy() for name in ("difference", "inclusion_probability", "credible")}
        return pd.DataFrame(not_tested | more)
    else:
        difference = values[n_first:].mean(axis=0) - values[:n_first].mean(axis=0)
        p_value = p_values(block.tested, n_first, method, n_permutations, seed)
    like = PERMUTATION if method == PERMUTATION else WELCH
    of_tested = spread_of(block.tested, n_first)
    power = power_of(block.doubling, of_tested, n_first, n_second, like, _LEVEL)
    spread = spread_of(values, n_first)
    return pd.DataFrame(columns | {"difference": difference, "spread": spread, "p_value": p_value, "power": power})


def _jointly(blocks: list[_Block], cohort: _Cohort, n_permutations: int, seed: int) -> np.ndarray:
    """Return the adjusted p-values of all rows, whole samples permuted; NaN where nothing is tested."""
    columns = []
    for block in blocks:
        found = np.full((cohort.n_samples, len(block.features)), np.nan)
        if min(cohort.of_each(block.used)) >= _FEWEST:
            found[block.used] = block.tested
        columns.append(found)
    values = np.hstack(columns)
    is_tested = np.isfinite(values).any(axis=0)
    adjusted = np.full(values.shape[1], np.nan)
    adjusted[is_tested] = joint_p(values[:, is_tested], cohort.sizes[0], n_permutations, seed)
    return adjusted


def _by_sccoda(block: _Block, n_first: int, seed: int) -> pd.DataFrame:
    """Return log2-fold changes, inclusion probabilities and credible effects of scCODA."""
    import pandas as pd
    from anndata import AnnData
    from pertpy.tools import Sccoda

    group = np.where(np.arange(len(block.counts)) < n_first, "reference", "other")
    obs = pd.DataFrame({"group": group}, index=[f"sample{number}" for number in range(len(group))])
    data = AnnData(block.counts.astype(np.float64), obs=obs, var=pd.DataFrame(index=block.features))
    sccoda = Sccoda()
    data = sccoda.prepare(sccoda.load(data, type="sample_level")["coda"], formula="C(group, Treatment('reference'))")
    sccoda.run_nuts(data, rng_key=seed)
    sccoda.set_fdr(data, est_fdr=_LEVEL)
    effects, credible = (found.droplevel(0) for found in (sccoda.get_effect_df(data), sccoda.credible_effects(data)))
    named = {"log2-fold change": "difference", "Inclusion probability": "inclusion_probability"}
    return effects.rename(columns=named).assign(credible=credible).loc[block.features]


def _by_pydeseq2(block: _Block, n_first: int) -> pd.DataFrame:
    import pandas as pd
    from pydeseq2.dds import DeseqDataSet
    from pydeseq2.ds import DeseqStats

    names = [f"sample{number}" for number in range(len(block.counts))]
    group = ["reference" if number < n_first else "other" for number in range(len(names))]
    counts = pd.DataFrame(np.rint(block.counts).astype(int), index=names, columns=block.features)
    data = DeseqDataSet(
        counts=counts, metadata=pd.DataFrame({"group": group}, index=names), design="~group", quiet=True, n_cpus=1
    )
    data.deseq2()
    found = DeseqStats(data, contrast=["group", "other", "reference"], quiet=True, n_cpus=1)
    found.summary()
    return found.results_df


def _adjusted(p_values: np.ndarray) -> np.ndarray:
    from scipy.stats import false_discovery_control

    adjusted = np.full(len(p_values), np.nan)
    known = np.isfinite(p_values)
    if known.any():
        adjusted[known] = false_discovery_control(p_values[known])
    return adjusted


# -- statistics of two groups of samples -------------------------------------------------------------------------------


def splits_of(n_first: int, n_second: int, most: int, rng: np.random.Generator) -> tuple[np.ndarray, bool]:
    """Return the ways to draw the second group among all samples, and whether these are all there are.

    Returns
    -------
    tuple
        bool of shape (n_splits, n_first + n_second), the second group true. All ways where there are at most ``most``;
        else as many drawn at random, in front of which the observed one stands.
    """
    n_samples = n_first + n_second
    if comb(n_samples, n_second) <= most:
        chosen = np.array(list(combinations(range(n_samples), n_second)))
        splits = np.zeros((len(chosen), n_samples), dtype=bool)
        splits[np.arange(len(chosen))[:, None], chosen] = True
        return splits, True
    observed = np.arange(n_samples) >= n_first
    drawn = rng.permuted(np.tile(observed, (most, 1)), axis=1)
    return np.vstack([observed, drawn]), False


def permutation_p(values: np.ndarray, n_first: int, splits: np.ndarray) -> np.ndarray:
    """Return two-sided p-values of the difference in means: the share of splits in which it is as large.

    Parameters
    ----------
    values
        (n_samples, n_features), the first group first.
    n_first
        Samples of the first group.
    splits
        Of :func:`splits_of`; the observed one is among them, so that no p-value is 0.
    """
    weights = np.where(splits, 1 / splits.sum(axis=1, keepdims=True), -1 / (~splits).sum(axis=1, keepdims=True))
    observed = np.abs(values[n_first:].mean(axis=0) - values[:n_first].mean(axis=0))
    as_large = np.zeros(values.shape[1])
    for start in range(0, len(weights), 1_000):
        as_large += (np.abs(weights[start : start + 1_000] @ values) >= observed * (1 - _TIE)).sum(axis=0)
    return as_large / len(splits)


def joint_p(values: np.ndarray, n_first: int, most: int, seed: int) -> np.ndarray:
    """Return p-values of features, adjusted by permutation of all at once (Westfall and Young 1993, step-down).

    Whole samples change sides, and the largest t-statistic of all features is what each is compared with, so that the
    chance of any false finding is held, and a few samples suffice for many features: the smallest value is that of one
    feature.

    Parameters
    ----------
    values
        (n_samples, n_features), the first group first; NaN in samples in which a feature is not used.
    n_first
        Samples of the first group.
    most
        Splits: all where there are at most so many, else as many at random.
    seed
        Seed of these.
    """
    splits, _ = splits_of(n_first, len(values) - n_first, most, np.random.default_rng(seed))
    observed = _squared_t(values, (np.arange(len(values)) >= n_first)[None, :])[0]
    order = np.argsort(-observed, kind="stable")
    as_large = np.zeros(len(order))
    step = max(1, min(200, _VALUES // max(1, values.shape[1])))
    for start in range(0, len(splits), step):
        found = _squared_t(values[:, order], splits[start : start + step])
        largest = np.maximum.accumulate(found[:, ::-1], axis=1)[:, ::-1]
        as_large += (largest >= observed[order] * (1 - _TIE)).sum(axis=0)
    adjusted = np.empty(len(order))
    adjusted[order] = np.maximum.accumulate(as_large / len(splits))
    return adjusted


def _squared_t(values: np.ndarray, splits: np.ndarray) -> np.ndarray:
    """Return the squared t-statistic of pooled variance for each split and feature; 0 where a group has no sample."""
    there = np.isfinite(values)
    known = np.where(there, values, 0.0) - np.where(there, values, 0.0).sum(axis=0) / np.maximum(there.sum(axis=0), 1)
    known = np.where(there, known, 0.0)
    second = splits.astype(np.float64)
    n_second, n_all = second @ there, there.sum(axis=0)
    n_first, total = n_all - n_second, second @ known
    with np.errstate(divide="ignore", invalid="ignore"):
        between = total**2 * (1 / n_first + 1 / n_second)  # values are centered: the first group's total is its mirror
        within = (known**2).sum(axis=0) - between
        found = between * (n_all - 2) / np.maximum(within, _TIE * (known**2).sum(axis=0))
    return np.where((n_first > 0) & (n_second > 0), np.nan_to_num(found), 0.0)


def welch_p(values: np.ndarray, n_first: int) -> np.ndarray:
    """Return two-sided p-values of Welch's t-test; 1 where no sample differs from another."""
    from scipy.stats import ttest_ind

    with np.errstate(divide="ignore", invalid="ignore"):
        found = ttest_ind(values[n_first:], values[:n_first], equal_var=False).pvalue
    alike = np.ptp(values, axis=0) == 0
    return np.where(alike, 1.0, found)


def p_values(values: np.ndarray, n_first: int, method: str, most: int, seed: int) -> np.ndarray:
    """Return the p-values of features by ``"permutation"`` or ``"welch"``."""
    if method == WELCH:
        return welch_p(values, n_first)
    splits, _ = splits_of(n_first, len(values) - n_first, most, np.random.default_rng(seed))
    return permutation_p(values, n_first, splits)


def smallest_p(n_first: int, n_second: int, most: int) -> float:
    """Return the smallest p-value that permutation of so many samples can give."""
    ways = comb(n_first + n_second, n_second)
    if ways > most:
        return 1 / (most + 1)
    return (2 if n_first == n_second else 1) / ways


def spread_of(values: np.ndarray, n_first: int) -> np.ndarray:
    """Return the standard deviation between samples of one group, pooled over the two."""
    rest = np.concatenate([part - part.mean(axis=0) for part in (values[:n_first], values[n_first:])])
    return np.sqrt((rest**2).sum(axis=0) / (len(values) - 2))


def power_of(
    effect: float | np.ndarray, spread: np.ndarray, n_first: int, n_second: int, method: str, level: float
) -> np.ndarray:
    """Return the chance to find ``effect`` at ``level``, by simulation of Gaussian samples of the given spread."""
    found = _power_by_size(n_first, n_second, method, level)
    sizes = np.divide(effect, spread, out=np.full(len(spread), _SIZES[-1]), where=spread > 0)
    return np.interp(sizes, _SIZES, found)


@lru_cache(maxsize=64)
def _power_by_size(n_first: int, n_second: int, method: str, level: float) -> np.ndarray:
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(n_first + n_second, _SIMULATED))
    if method == WELCH:
        test = partial(welch_p, n_first=n_first)
    else:
        test = partial(permutation_p, n_first=n_first, splits=splits_of(n_first, n_second, _SPLITS_FOR_POWER, rng)[0])
    second = (np.arange(n_first + n_second) >= n_first)[:, None]
    return np.array([(test(noise + size * second) <= level).mean() for size in _SIZES])
