"""What speaks for a cell's niche, and what of it goes when a neighbor or a gene is hidden: one table for all methods.

A method says how the representation of cells moves; what follows from it is the same for each, and is here: the
evidence of niches, the sample of cells, the blocks of tissue, the nulls and the table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse import csr_matrix
from scipy.special import logsumexp

from scjepa._core.anndata import categories_of, groups_of, niches_of
from scjepa._core.arrays import members, tissue
from scjepa._core.counts import log_normalized_cells
from scjepa._core.neighbors import spatial_blocks
from scjepa._core.plain import seed_of, whole
from scjepa._core.warn import warn

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

BLOCK = 25
"""Cells of a compact block of tissue at most: what lies together is dealt together."""

FEWEST = 5
"""Cells of which a niche must consist, and in which a driver must be hidden, to be reported."""

_LEAST_SKILL = 0.5
"""Share of the way from chance to certainty that the evidence must reach, niches weighing alike, for there to be
p-values: among niches that are mere places (where it is 0.09 to 0.3 in ten simulated tissues) any fitted evidence has
drivers, and means nothing."""

_LEAST_AGREEMENT = 0.5
"""Share of cells that the evidence must put in their own niche, so that there is no warning."""

COLUMNS = ("niche", "kind", "driver", "ring", "effect", "shift", "n_cells", "null_mean", "null_sd", "z", "p_value")
"""Columns of a table of drivers, before ``p_adjusted`` and ``difference``."""

NEIGHBOR, GENE = "neighbor", "gene"
"""Kinds of drivers."""


class NicheEvidence:
    """Log-odds of niches in a representation of cells, by a discriminant fitted on the other half of the tissue.

    A linear discriminant with a shrunken covariance is fitted on each half and tells of the cells of the other: where
    it were fitted on the cells that it tells of, anything would seem to speak for their niche.

    Parameters
    ----------
    values
        ``(n_cells, n_dims)`` representation.
    codes
        ``(n_cells,)`` niche of each cell, -1 for none.
    halves
        ``(n_cells,)`` half of the tissue, 0 or 1.
    names
        Names of the niches.

    Attributes
    ----------
    weights, intercept
        ``(2, n_niches, n_dims)`` and ``(2, n_niches)``, by the half they tell of: scores of niches are linear in the
        representation.
    agreement
        Share of the cells that are put in the niche they have.
    is_told
        Whether niches are told at least half as well as could be.
    spread
        Root of the total variance of the representation, by which shifts are divided.

    Warns
    -----
    UserWarning
        If fewer than half of the cells are put in their niche: the niches are not of this representation.

    Raises
    ------
    ValueError
        If fewer than two niches have ten cells.
    """

    def __init__(self, values: np.ndarray, codes: np.ndarray, halves: np.ndarray, names: Sequence[str]) -> None:
        self.names = list(names)
        sizes = np.bincount(codes[codes >= 0], minlength=len(self.names))
        known = np.flatnonzero(sizes >= 2 * FEWEST)
        if len(known) < 2:
            raise ValueError(
                f"Two niches of {2 * FEWEST} cells or more are needed; cells by niche: "
                f"{', '.join(f'{name} {size}' for name, size in zip(self.names, sizes, strict=True))}."
            )
        self.weights = np.zeros((2, len(self.names), values.shape[1]))
        self.intercept = np.full((2, len(self.names)), -np.inf)
        has_niche = np.isin(codes, known)
        for half in range(2):
            fitted_on = has_niche & (halves != half)
            found = _discriminant(np.asarray(values[fitted_on], dtype=np.float64), codes[fitted_on])
            self.weights[half][known], self.intercept[half][known] = found
        wide = np.asarray(values[has_niche], dtype=np.float64)
        self.spread = float(np.sqrt(wide.var(axis=0).sum())) or 1.0
        likely = self.scores(wide, halves[has_niche]).argmax(axis=1)
        self.agreement = float((likely == codes[has_niche]).mean())
        right = np.bincount(codes[has_niche][likely == codes[has_niche]], minlength=len(sizes))[known] / sizes[known]
        self.is_told = bool((right.mean() - 1 / len(known)) / (1 - 1 / len(known)) >= _LEAST_SKILL)
        if not self.is_told:
            warn(
                "Niches are told from this representation less than half as well as could be, so there is no p-value "
                "for what tells them: they are mere places, or were found in something else."
            )
        elif self.agreement < _LEAST_AGREEMENT:
            warn(
                f"Only {self.agreement:.0%} of the cells lie where their niche is told from this representation: the "
                "niches were found in something else, and what moves a cell here says little of them."
            )

    def scores(self, values: np.ndarray, halves: np.ndarray) -> np.ndarray:
        """Return the score of each niche, ``(n, n_niches)``: its log-probability but for a constant of the cell.

        Parameters
        ----------
        values
            ``(n, n_dims)``.
        halves
            ``(n,)`` half of the tissue that each is of.
        """
        found: np.ndarray = by_half(values, self.weights.swapaxes(1, 2), halves) + self.intercept[halves]
        return found

    def membership(self, scores: np.ndarray) -> np.ndarray:
        """Return the probability of each niche, ``(n, n_niches)``; rows sum to 1."""
        found: np.ndarray = np.exp(scores - logsumexp(scores, axis=1, keepdims=True))
        return found


def _discriminant(values: np.ndarray, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    fitted = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto").fit(values, codes)
    if len(fitted.classes_) > 2:
        return fitted.coef_, fitted.intercept_
    # scikit-learn keeps one row for two classes
    return np.vstack([-fitted.coef_, fitted.coef_]) / 2, np.r_[-fitted.intercept_, fitted.intercept_] / 2


def by_half(values: np.ndarray, weights: np.ndarray, halves: np.ndarray) -> np.ndarray:
    """Return ``values`` times the weights of their half, ``(2, n_dims, n)``."""
    found = np.empty((len(values), weights.shape[2]))
    for half in range(2):
        rows = halves == half
        found[rows] = values[rows] @ weights[half]
    return found


def log_odds(scores: np.ndarray, niche: int | np.ndarray) -> np.ndarray:
    """Return log(p / (1 - p)) of a niche, one for all rows or one a row, from scores ``(..., n_niches)``."""
    own = np.broadcast_to(np.asarray(niche), scores.shape[:-1])[..., None]
    others = np.where(np.arange(scores.shape[-1]) == own, -np.inf, scores)
    found: np.ndarray = np.take_along_axis(scores, own, axis=-1)[..., 0] - logsumexp(others, axis=-1)
    return found


def falls(before: np.ndarray, after: np.ndarray, niche: int | np.ndarray) -> np.ndarray:
    """Return by how much log-odds fall from scores ``before`` to ``after``; NaN for niches too small to have any."""
    with np.errstate(invalid="ignore"):
        found: np.ndarray = log_odds(before, niche) - log_odds(after, niche)
    return found


@dataclass(frozen=True)
class Sampled:
    """Niches, cells that stand for them, and the blocks of tissue that they lie in.

    Attributes
    ----------
    names
        Names of the niches.
    codes
        ``(n_cells,)`` niche of every cell of the tissue, -1 for none.
    cells
        ``(n,)`` sampled cells, rising.
    blocks
        ``(n_cells,)`` block of every cell: compact, of one section and one niche.
    tissue_halves
        ``(n_cells,)`` 0 or 1, two compact halves of each niche, or different sections.
    """

    names: list[str]
    codes: np.ndarray
    cells: np.ndarray
    blocks: np.ndarray
    tissue_halves: np.ndarray

    @classmethod
    def of(
        cls,
        adata: AnnData,
        niche_key: str,
        n_cells: int,
        niches: Sequence[str] | None,
        library_key: str | None,
        spatial_key: str,
        random_state: int,
    ) -> Sampled:
        """Draw up to ``n_cells`` cells of each niche.

        Raises
        ------
        KeyError
            If there are no niches or coordinates.
        ValueError
            If a niche that is named is not there or has no cell, or an option is out of its range.
        """
        found = niches_of(adata, niche_key)
        names, codes = list(found.categories), np.asarray(found.codes, dtype=np.int64)
        wanted = [names.index(name) for name in named_niches(adata, niche_key, niches)]
        n_cells, rng = whole("n_cells", n_cells, least=1), np.random.default_rng(seed_of(random_state))
        drawn = [_some(rng, np.flatnonzero(codes == code), n_cells) for code in wanted]
        places, sections = tissue(places_of(adata, spatial_key), groups_of(adata, library_key), adata.n_obs)
        both = np.unique(np.stack([sections, codes]), axis=1, return_inverse=True)[1].ravel()
        blocks = spatial_blocks(places, both, BLOCK)
        return cls(names, codes, np.sort(np.concatenate(drawn)), blocks, _halves(codes, blocks))

    @property
    def niches(self) -> np.ndarray:
        """``(n,)`` niche of each sampled cell."""
        return self.codes[self.cells]

    @property
    def halves(self) -> np.ndarray:
        """``(n,)`` half of each sampled cell."""
        return self.tissue_halves[self.cells]

    def evidence(self, values: np.ndarray) -> NicheEvidence:
        """Return the evidence of the niches in a representation of all cells."""
        return NicheEvidence(values, self.codes, self.tissue_halves, self.names)

    def dealt(self, labels: np.ndarray, n_times: int, seed: int) -> Iterator[np.ndarray]:
        """Yield labels of all cells dealt anew among the cells of each block."""
        rng = np.random.default_rng(seed)
        order = np.argsort(self.blocks, kind="stable")
        by_block = self.blocks[order]
        for _ in range(n_times):
            dealt = np.empty_like(labels)
            dealt[order] = labels[order][np.lexsort((rng.random(len(order)), by_block))]
            yield dealt


def _halves(codes: np.ndarray, blocks: np.ndarray) -> np.ndarray:
    """Cut the cells of each niche in two: blocks that follow one another lie together."""
    halves = np.zeros(len(codes), dtype=np.int64)
    for code in np.unique(codes):
        own = np.flatnonzero(codes == code)
        halves[own[np.argsort(blocks[own], kind="stable")][len(own) // 2 :]] = 1
    return halves


def places_of(adata: AnnData, spatial_key: str) -> np.ndarray:
    """Return coordinates; a missing key names what is there and the next call."""
    from scjepa._core.anndata import array_of, entry_of

    then = "Blocks of tissue are told by coordinates: name their key with spatial_key=..."
    return array_of(entry_of(adata, "obsm", spatial_key, then))


def named_niches(adata: AnnData, niche_key: str, niches: Sequence[str] | None) -> list[str]:
    """Return the niches that are named; ``None``: all.

    Raises
    ------
    ValueError
        If one is not there or has no cell.
    """
    names = list(niches_of(adata, niche_key).categories)
    if niches is None:
        return names
    wanted = [niches] if isinstance(niches, str) else [str(name) for name in niches]
    for name in wanted:
        if name not in names:
            is_empty = name in categories_of(adata, niche_key).categories
            why = "has no cell" if is_empty else "does not exist"
            raise ValueError(f"The niche {name!r} {why} in adata.obs[{niche_key!r}]; there are {', '.join(names)}.")
    return wanted


def _some(rng: np.random.Generator, cells: np.ndarray, n: int) -> np.ndarray:
    return cells if len(cells) <= n else rng.choice(cells, n, replace=False)


def labels_in(adata: AnnData, by: str, what: str = "the neighbors") -> tuple[np.ndarray, list[str]]:
    """Return codes of labels, ``(n_cells,)`` with -1 for none, and their names.

    Raises
    ------
    KeyError
        If there is no such column.
    ValueError
        If no cell has a label there.
    """
    found = categories_of(adata, by)
    if not (found.codes >= 0).any():
        raise ValueError(
            f"No cell has a label in adata.obs[{by!r}], by which {what} are told apart: name another column, by=..."
        )
    return np.asarray(found.codes, dtype=np.int64), list(found.categories)


@dataclass(frozen=True)
class Hidden:
    """What happened when one neighbor of a cell was hidden, for many pairs of cell and neighbor.

    Attributes
    ----------
    cell
        ``(n_pairs,)`` position of the cell among those sampled.
    neighbor
        ``(n_pairs,)`` number of the neighbor among all cells; the cell itself in ring 0.
    ring
        ``(n_pairs,)`` ring.
    effect
        ``(n_pairs,)`` by how much the log-odds of the cell's niche fell.
    shift
        ``(n_pairs,)`` how far its representation moved, in spreads of the representation.
    """

    cell: np.ndarray
    neighbor: np.ndarray
    ring: np.ndarray
    effect: np.ndarray
    shift: np.ndarray


def neighbor_rows(hidden: Hidden, sampled: Sampled, labels: np.ndarray, names: Sequence[str], how: Null) -> list[tuple]:
    """Return rows of a table of drivers: for each niche, label of neighbors and ring the mean of the pairs.

    The null: labels are dealt anew among the cells of one niche within compact blocks of 25 cells, so that each niche
    and block keeps its labels, and each neighbor its label wherever it is one.
    """
    n_labels, n_rings = len(names), int(hidden.ring.max(initial=0)) + 1
    niche = sampled.niches[hidden.cell]
    size = len(sampled.names) * n_labels * n_rings

    def group(given: np.ndarray) -> np.ndarray:
        label = given[hidden.neighbor]
        found = (niche * n_labels + label) * n_rings + hidden.ring
        return np.where(label >= 0, found, size)  # a last group of neighbors without a label

    def means(given: np.ndarray) -> np.ndarray:
        own = group(given)
        total = np.bincount(own, hidden.effect, minlength=size + 1)[:size]
        number = np.bincount(own, minlength=size + 1)[:size]
        return np.divide(total, number, out=np.full(size, np.nan), where=number > 0)

    own = group(labels)
    effect, shift = means(labels), np.bincount(own, hidden.shift, minlength=size + 1)[:size]
    number = np.bincount(own, minlength=size + 1)[:size]
    cells = np.unique(np.stack([own, hidden.cell]), axis=1)[0]
    n_cells = np.bincount(cells, minlength=size + 1)[:size]
    counts = number.reshape(len(sampled.names), n_labels, n_rings)
    with np.errstate(divide="ignore", invalid="ignore"):
        share, of_all = counts / counts.sum(axis=1, keepdims=True), counts.sum(axis=0) / counts.sum(axis=(0, 1))
        oftener = np.log2(share / of_all)
    by_chance = np.array([means(dealt) for dealt in sampled.dealt(labels, how.n_permutations, how.seed)])
    told = compared_with(effect, by_chance)
    rows = []
    for place in np.flatnonzero(n_cells >= FEWEST):
        rest, ring = divmod(int(place), n_rings)
        of, label = divmod(rest, n_labels)
        about = (sampled.names[of], NEIGHBOR, names[label], ring, effect[place], shift[place] / number[place])
        rows.append((*about, int(n_cells[place]), *(column[place] for column in told), oftener[of, label, ring]))
    return rows


def gene_rows(
    effect_on: Callable[[int], tuple[np.ndarray, np.ndarray]],
    sampled: Sampled,
    genes: Sequence[str],
    differences: pd.DataFrame,
    how: Null,
) -> list[tuple]:
    """Return rows of a table of drivers: for each niche and gene the mean over the niche's cells.

    The null: which blocks of the sampled cells are the niche's is dealt anew, so that hiding the gene tells of the
    niche no more in its own cells than elsewhere.

    Parameters
    ----------
    effect_on
        From the code of a niche to how much its log-odds fall in each sampled cell when a gene is hidden, and how far
        the cell moves, each ``(n, n_genes)``; NaN where a cell does not have the gene.
    differences
        Of :func:`mean_differences`.
    """
    blocks = np.unique(sampled.blocks[sampled.cells], return_inverse=True)[1]
    rows = []
    for code in np.unique(sampled.niches):
        own = sampled.niches == code
        if own.sum() < FEWEST:
            continue
        effects, shifts = effect_on(int(code))
        there = np.isfinite(effects)
        n_cells = there[own].sum(axis=0)
        effects = np.where(there, effects, 0.0)
        means = effects[own].mean(axis=0)
        by_chance = _means_of_blocks(effects, blocks, len(np.unique(blocks[own])), how)
        moved = np.divide(np.nansum(shifts[own], axis=0), n_cells, out=np.zeros(len(genes)), where=n_cells > 0)
        told = compared_with(means, by_chance)
        for gene in map(int, np.flatnonzero(n_cells >= FEWEST)):
            about = (sampled.names[code], GENE, str(genes[gene]), None, means[gene], moved[gene])
            apart = differences.at[sampled.names[code], genes[gene]] if genes[gene] in differences else np.nan
            rows.append((*about, int(n_cells[gene]), *(column[gene] for column in told), apart))
    return rows


def mean_differences(adata: AnnData, codes: np.ndarray, names: Sequence[str], layer: str | None) -> pd.DataFrame:
    """Return the mean log-normalized level of genes in each niche less that in other cells, in standard deviations.

    Parameters
    ----------
    codes
        ``(n_cells,)`` niche of each cell, -1 for none.
    names
        Names of the niches, which are the index; genes are the columns.
    """
    import pandas as pd

    cells = log_normalized_cells(adata, layer, cells=codes >= 0)
    levels, of = csr_matrix(cells.X, dtype=np.float64), codes[codes >= 0]
    sums, sizes = (members(of, len(names)) @ levels).toarray(), np.bincount(of, minlength=len(names))[:, None]
    total, square = sums.sum(axis=0), np.asarray(levels.multiply(levels).sum(axis=0)).ravel()
    spread = np.sqrt(np.maximum(square / len(of) - (total / len(of)) ** 2, 0))
    with np.errstate(divide="ignore", invalid="ignore"):
        found = (sums / sizes - (total - sums) / (len(of) - sizes)) / spread
    return pd.DataFrame(found, index=list(names), columns=cells.var_names.astype(str))


def _means_of_blocks(effects: np.ndarray, blocks: np.ndarray, n_own: int, how: Null) -> np.ndarray:
    """Return means over ``n_own`` blocks drawn at random, ``(n_permutations, n_genes)``."""
    n_blocks = int(blocks.max()) + 1
    total = np.zeros((n_blocks, effects.shape[1]))
    np.add.at(total, blocks, effects)
    size = np.bincount(blocks, minlength=n_blocks)
    drawn = np.random.default_rng(how.seed).random((how.n_permutations, n_blocks)).argsort(axis=1)[:, :n_own]
    chosen = np.zeros((how.n_permutations, n_blocks))
    np.put_along_axis(chosen, drawn, 1.0, axis=1)
    found: np.ndarray = (chosen @ total) / (chosen @ size)[:, None]
    return found


@dataclass(frozen=True)
class Null:
    """How often labels or blocks are dealt anew, and the seed."""

    n_permutations: int
    seed: int

    @classmethod
    def of(cls, n_permutations: int, random_state: int) -> Null:
        """Return the options, checked."""
        return cls(whole("n_permutations", n_permutations, least=20), seed_of(random_state))


def compared_with(effect: np.ndarray, by_chance: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return mean and standard deviation of the null, the z-score and the two-sided p-value of effects.

    Parameters
    ----------
    effect
        ``(n,)``.
    by_chance
        ``(n_permutations, n)``; NaN where a deal gave none.
    """
    there = np.isfinite(by_chance)
    number = np.maximum(there.sum(axis=0), 1)
    mean = np.where(there, by_chance, 0).sum(axis=0) / number
    apart = np.where(there, by_chance - mean, 0.0)
    sd = np.sqrt((apart**2).sum(axis=0) / number)
    own = np.nan_to_num(effect) - mean
    # Rounding must not make an effect differ from the same one dealt anew.
    tolerance = 1e-9 * np.maximum(np.abs(np.nan_to_num(effect)), sd)
    farther = ((np.abs(apart) >= np.abs(own) - tolerance) | ~there).sum(axis=0)
    z = np.divide(own, sd, out=np.zeros_like(own), where=sd > 0)
    return mean, sd, z, (farther + 1) / (len(by_chance) + 1)


def as_table(rows: list[tuple], niches: Sequence[str], *, is_told: bool) -> pd.DataFrame:
    """Return rows of some niches, with false discovery rates within a niche and kind, the strongest drivers first.

    Where niches are told badly (not ``is_told``), there are no p-values.
    """
    import pandas as pd
    from scipy.stats import false_discovery_control

    table = pd.DataFrame([row for row in rows if row[0] in niches], columns=[*COLUMNS, "difference"])
    table["ring"] = table["ring"].astype("Int64")
    table.insert(len(COLUMNS), "p_adjusted", np.nan)
    for _, own in table.groupby(["niche", "kind"], sort=False):
        table.loc[own.index, "p_adjusted"] = false_discovery_control(own["p_value"])
    if not is_told:
        table[["p_value", "p_adjusted"]] = np.nan
    order = {name: place for place, name in enumerate(dict.fromkeys(table["niche"]))}
    kinds = {NEIGHBOR: 0, GENE: 1}
    by = pd.DataFrame({"n": table["niche"].map(order), "k": table["kind"].map(kinds), "z": -table["z"]})
    return table.loc[by.sort_values(["n", "k", "z"], kind="stable").index].reset_index(drop=True)
