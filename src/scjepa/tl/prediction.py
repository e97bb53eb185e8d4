"""How far cells are what their surroundings predict: surprise, calibrated by cell type and depth, and spillover."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse import csr_array, csr_matrix, diags_array

from scjepa._core import keys as _keys
from scjepa._core.anndata import categories_of, counts_of, embedding_of, groups_of, record, refuse_users
from scjepa._core.arrays import members, slices, tissue
from scjepa._core.counts import TARGET_SUM, check_of, iter_rows, log_normalized, read_counts
from scjepa._core.graph import sections_of
from scjepa._core.neighbors import spatial_blocks
from scjepa._core.warn import warn
from scjepa.tl._aggregate import hops_of, near_means, rings_of, spacings
from scjepa.tl._moments import Features, covariances_of
from scjepa.tl._predictive import PredictiveComponents
from scjepa.tl.evidence import places_of

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

SURPRISE, SPILLOVER = "surprise", "spillover"
"""Columns of ``obs`` that are written, and ``_p_value`` behind them."""

P_VALUE = "_p_value"

_N_FOLDS, _BLOCKS_A_FOLD = 5, 5
"""Parts of the tissue that are held out in turn, and compact blocks of each."""

_N_PCS = 30
"""Principal components of expression that are predicted."""

_RIDGE = 0.1
"""Ridge of the prediction, as a share of the variance of each predictor."""

_FEWEST_CELLS = 100
"""Cells with neighbors that there must be."""

_FEWEST_OF_TYPE = 50
"""Cells that a type must have to be calibrated by itself; rarer types are calibrated together."""

_OF_DEPTH = 200
"""Cells of like depth that are compared, about."""

_PRIOR = 0.3
"""Standard deviation of the share of foreign counts, before they are seen."""

_ROWS = 4_096
"""Cells that are dense at one time."""


@dataclass(frozen=True)
class Strata:
    """What a cell is compared with: cells of its type and of like depth in other parts of the tissue.

    Attributes
    ----------
    codes
        ``(n_cells,)`` type and depth.
    folds
        ``(n_cells,)`` part of the tissue.
    """

    codes: np.ndarray
    folds: np.ndarray

    @classmethod
    def of(
        cls, adata: AnnData, layer: str | None, cell_type_key: str | None, library_key: str | None, spatial_key: str
    ) -> Strata:
        """Cut cells into types, and each type into runs of about 200 cells of like depth.

        Parameters
        ----------
        cell_type_key
            Column of cell types; ``None``: cells are of one type. Cells without a type are one of their own.

        Raises
        ------
        KeyError
            If there is no such column, with the next call.
        """
        types = np.zeros(adata.n_obs, dtype=np.int64) if cell_type_key is None else _types_of(adata, cell_type_key)
        size = np.bincount(types)
        rare = size < _FEWEST_OF_TYPE
        types = np.where(rare[types], len(size), types)
        depth, codes, start = depths_of(adata, layer), np.zeros(adata.n_obs, dtype=np.int64), 0
        for code in np.unique(types):
            own = np.flatnonzero(types == code)
            n_runs = max(1, len(own) // _OF_DEPTH)
            runs = np.arange(len(own)) * n_runs // len(own)
            codes[own[np.argsort(depth[own], kind="stable")]] = start + runs
            start += n_runs
        places, sections = tissue(places_of(adata, spatial_key), groups_of(adata, library_key), adata.n_obs)
        blocks = spatial_blocks(places, sections, max(1, adata.n_obs // (_N_FOLDS * _BLOCKS_A_FOLD)))
        return cls(codes, blocks % _N_FOLDS)

    def p_values(self, score: np.ndarray) -> np.ndarray:
        """Return the share of comparable cells with as high a score or a higher one, the cell itself counted.

        Cells whose score is NaN take no part.
        """
        found = np.full(len(score), np.nan)
        there = np.isfinite(score)
        for stratum in np.unique(self.codes[there]):
            inside = there & (self.codes == stratum)
            for fold in np.unique(self.folds[inside]):
                own = inside & (self.folds == fold)
                others = np.sort(score[inside & (self.folds != fold)])
                as_high = len(others) - np.searchsorted(others, score[own], side="left")
                found[own] = (as_high + 1) / (len(others) + 1)
        return found


def _types_of(adata: AnnData, key: str) -> np.ndarray:
    if key not in adata.obs:
        raise KeyError(
            f"adata.obs has no {key!r}, the cell types by which cells are compared. Name the column, "
            "cell_type_key=..., or compare cells by depth alone: cell_type_key=None."
        )
    codes = np.asarray(categories_of(adata, key).codes, dtype=np.int64)
    return np.where(codes < 0, codes.max(initial=-1) + 1, codes)


def depths_of(adata: AnnData, layer: str | None) -> np.ndarray:
    """Return the counts of each cell, ``(n_cells,)``."""
    parts = [np.asarray(rows.sum(axis=1)).ravel() for _, rows in iter_rows(counts_of(adata, layer))]
    return np.concatenate(parts).astype(np.float64)


# -- surprise ----------------------------------------------------------------------------------------------------------


def surprise(
    adata: AnnData,
    use_rep: str | None = None,
    *,
    layer: str | None = None,
    library_key: str | None = None,
    cell_type_key: str | None = _keys.CELL_TYPE,
    neighbors_key: str = _keys.SPATIAL,
    spatial_key: str = _keys.SPATIAL,
    key_added: str = SURPRISE,
) -> None:
    r"""Write how little each cell is what its surroundings predict, in closed form.

    The principal components :math:`x` of a cell's expression are predicted from its surroundings :math:`c`, by ridge
    regression on other parts of the tissue: the means of the two rings around it, that of the first ring weighted by
    the inverse square of distance, and the logarithms of the distances to the nearest neighbor and to all of ring 1.
    The surprise is

    .. math:: \log p(x) - \log p(x \mid c)

    with Gaussian densities: positive where the surroundings make the cell less likely than knowing nothing of them
    would, negative where they predict it. A cell that is odd wherever it lies is no surprise by this. For a trained
    model see :meth:`scjepa.STJEPA.get_surprise`.

    Parameters
    ----------
    adata
        Annotated data with raw counts, coordinates and the graph of squidpy.
    use_rep
        Key in ``adata.obsm`` of what is predicted in place of the counts: an embedding of cells that does not see
        their neighbors.
    layer
        Layer of raw counts. Default: ``X``.
    library_key
        Column of ``adata.obs`` that tells sections apart. Default: ``"section"`` if there is such a column.
    cell_type_key
        Column of ``adata.obs`` with cell types, for the p-values. ``None``: by depth alone.
    neighbors_key
        squidpy's ``key_added``.
    spatial_key
        Key in ``adata.obsm`` of coordinates: how near neighbors are, and which parts of the tissue are held out.
    key_added
        Column of ``adata.obs`` to write.

    Returns
    -------
    None
        Writes ``adata.obs[key_added]``, float32, nats; and ``adata.obs[f"{key_added}_p_value"]``, float32: the share
        of cells of the same type and of like depth, in other parts of the tissue, that are as surprising or more
        (conformal: of cells that are like the others a share of 0.05 lies below 0.05). Cells without neighbors get NaN.
        Types of fewer than 50 cells are compared together. ``adata.uns["scjepa"]`` notes how it was made.

    Warns
    -----
    UserWarning
        If cells have no neighbors, or counts are not integers.

    Raises
    ------
    KeyError
        If the counts, the graph, coordinates or cell types are not there, with the next call.
    ValueError
        If fewer than 100 cells have neighbors, no gene varies, or there is a column that scjepa did not write.

    Examples
    --------
    >>> sq.gr.spatial_neighbors_knn(adata, n_neighs=10, library_key="section")
    >>> scjepa.tl.surprise(adata)
    >>> odd = adata[adata.obs["surprise_p_value"] < 0.01]
    """
    refuse_surprise(adata, key_added)
    edges, groups, library_key = sections_of(adata, neighbors_key, library_key)
    strata = Strata.of(adata, layer, cell_type_key, library_key, spatial_key)
    joined = joined_in(np.diff(edges.indptr) > 0, adata)
    values = Features.of_counts(adata, layer) if use_rep is None else embedding_of(adata, use_rep)
    target_sum = TARGET_SUM if use_rep is None else None
    components = PredictiveComponents(n_pcs=_N_PCS, target_sum=target_sum)
    own, _ = components._principal(Features.of(values, target_sum), edges, groups)
    places, sections = tissue(places_of(adata, spatial_key), groups, adata.n_obs)
    near = [near_means(own, edges, places), spacings(edges, places, sections)]
    around = [*hops_of(own, edges, 2)[1:], *near]
    found = unexpectedness(own, np.hstack(around), joined, strata.folds)
    how = {"use_rep": use_rep, "layer": layer, "library_key": library_key, "neighbors_key": neighbors_key}
    write_surprise(adata, found, strata, key_added, cell_type_key=cell_type_key, **how)


def refuse_surprise(adata: AnnData, key_added: str) -> None:
    """Raise where a column that is to be written is the user's own."""
    for column in (key_added, f"{key_added}{P_VALUE}"):
        refuse_users(adata, "obs", column)


def write_surprise(adata: AnnData, score: np.ndarray, strata: Strata, key_added: str, **how: object) -> None:
    """Write scores and their p-values, and note how they were made."""
    adata.obs[key_added] = score.astype(np.float32)
    adata.obs[f"{key_added}{P_VALUE}"] = strata.p_values(score).astype(np.float32)
    for column in (key_added, f"{key_added}{P_VALUE}"):
        record(adata, column, slot="obs", **how)


def joined_in(joined: np.ndarray, adata: AnnData) -> np.ndarray:
    """Return which cells have neighbors, ``(n_cells,)`` bool, after a warning about the others.

    Raises
    ------
    ValueError
        If fewer than 100 cells have neighbors.
    """
    if joined.sum() < _FEWEST_CELLS:
        raise ValueError(
            f"{joined.sum():,} cells have neighbors, and {_FEWEST_CELLS} are needed to tell what is usual. Compute the "
            "graph anew, with more neighbors, or take more cells."
        )
    if not joined.all():
        first = adata.obs_names[int(np.argmin(joined))]
        warn(f"{(~joined).sum():,} cells have no neighbors, first {first!r}: nothing predicts them, and they get NaN.")
    return joined


def unexpectedness(own: np.ndarray, context: np.ndarray, joined: np.ndarray, folds: np.ndarray) -> np.ndarray:
    """Return log p(own) - log p(own | context) by Gaussians that are fitted on the other folds, ``(n_cells,)``, nats.

    Parameters
    ----------
    own, context
        ``(n_cells, n_dims)`` and ``(n_cells, n_predictors)``.
    joined
        ``(n_cells,)`` bool, cells that have a context; the others get NaN.
    folds
        ``(n_cells,)`` part of the tissue of each cell.
    """
    found = np.full(len(own), np.nan)
    for fold in np.unique(folds):
        held = joined & (folds == fold)
        others = joined & (folds != fold)
        if others.any() and held.any():
            x, c = own[others].astype(np.float64), context[others].astype(np.float64)
            mean, center, scale = x.mean(axis=0), c.mean(axis=0), c.std(axis=0)
            inverse = np.divide(1.0, scale, out=np.zeros_like(scale), where=scale > 0)
            c = (c - center) * inverse
            weights = np.linalg.solve(c.T @ c + _RIDGE * len(c) * np.eye(c.shape[1]), c.T @ (x - mean))
            apart = own[held] - mean
            error = apart - (context[held] - center) * inverse @ weights
            found[held] = _surprisal(error, x - mean - c @ weights) - _surprisal(apart, x - mean)
    return found


def _surprisal(values: np.ndarray, fitted: np.ndarray) -> np.ndarray:
    """Return the negative log-density of values by a Gaussian of mean 0, but for a constant, ``(n,)``."""
    covariance = covariances_of(fitted, np.zeros(len(fitted), dtype=np.int64), 1)[0]
    factor = np.linalg.cholesky(covariance + 1e-12 * max(np.trace(covariance), 1e-30) * np.eye(len(covariance)))
    white = np.linalg.solve(factor, values.T.astype(np.float64))
    found: np.ndarray = 0.5 * np.square(white).sum(axis=0) + np.log(np.diag(factor)).sum()
    return found


# -- spillover ---------------------------------------------------------------------------------------------------------


def spillover(
    adata: AnnData,
    *,
    layer: str | None = None,
    library_key: str | None = None,
    cell_type_key: str | None = _keys.CELL_TYPE,
    neighbors_key: str = _keys.SPATIAL,
    spatial_key: str = _keys.SPATIAL,
    key_added: str = SPILLOVER,
) -> pd.DataFrame:
    r"""Tell which cells hold counts of their neighbors, and which genes follow the neighbors rather than the cell.

    A cell's shares of counts :math:`p` are taken for a mixture, :math:`p = (1 - \alpha) \mu + \alpha \nu`, of the mean
    :math:`\mu` of its type and the mean :math:`\nu` of its neighbors. The best :math:`\alpha` by weighted least
    squares, shrunk by what counting alone scatters, is the cell's spillover: high in doublets, and where counts of
    neighbors were assigned to a cell. It cannot tell these from cells that truly resemble the cells around them.

    Parameters
    ----------
    adata
        Annotated data with raw counts, coordinates and the graph of squidpy.
    layer, library_key, cell_type_key, neighbors_key, spatial_key
        As in :func:`surprise`. Without cell types :math:`\mu` is the mean of all cells, which tells little.
    key_added
        Column of ``adata.obs`` to write.

    Returns
    -------
    pandas.DataFrame
        A row for each gene, the strongest suspects first: ``gene``; ``own_share``, the share of the variance of
        log-normalized expression that lies between cell types; ``context_share``, the further share that the mean of
        the neighbors explains within types; ``slope``, by how much the gene rises in a cell as it rises in ring 1,
        ring 2 held equal, within types (what spills comes from next door, and what a region shares from farther too);
        ``slope_se`` and ``z`` over parts of the tissue. Genes that do not vary are left out.

        Also writes ``adata.obs[key_added]``, float32, and ``adata.obs[f"{key_added}_p_value"]``, float32: the share of
        cells of the same type and of like depth, in other parts of the tissue, with as high a value or a higher one.
        Cells without neighbors or counts get NaN. ``adata.uns["scjepa"]`` notes how it was made.

    Warns
    -----
    UserWarning
        If cells have no neighbors, or counts are not integers.

    Raises
    ------
    KeyError
        If the counts, the graph, coordinates or cell types are not there, with the next call.
    ValueError
        If fewer than 100 cells have neighbors, or there is a column that scjepa did not write.

    Examples
    --------
    >>> genes = scjepa.tl.spillover(adata)
    >>> genes.head()
    """
    refuse_surprise(adata, key_added)
    edges, _, library_key = sections_of(adata, neighbors_key, library_key)
    strata = Strata.of(adata, layer, cell_type_key, library_key, spatial_key)
    joined = joined_in(np.diff(edges.indptr) > 0, adata)
    types = np.zeros(adata.n_obs, dtype=np.int64) if cell_type_key is None else _types_of(adata, cell_type_key)
    counts = csr_array(read_counts(counts_of(adata, layer), dtype=np.float32, check=check_of(adata, layer)))
    score = _foreign_share(counts, edges, types)
    score[~joined | (np.diff(counts.indptr) == 0)] = np.nan
    how = {"layer": layer, "library_key": library_key, "neighbors_key": neighbors_key}
    write_surprise(adata, score, strata, key_added, cell_type_key=cell_type_key, **how)
    return _context_of_genes(counts, edges, types, np.where(joined, strata.folds, -1), adata.var_names)


def _foreign_share(counts: csr_array, edges: csr_matrix, types: np.ndarray) -> np.ndarray:
    """Return the share of each cell's counts that its neighbors explain better than its type, ``(n_cells,)``."""
    total = np.maximum(np.asarray(counts.sum(axis=1)).ravel(), 1)
    shares = csr_array(diags_array(1 / total) @ counts)
    of_type = _means_by(shares, types)
    everywhere = np.asarray(shares.mean(axis=0)).ravel()
    degree, found = np.maximum(np.diff(edges.indptr), 1), np.empty(len(types))
    for rows in slices(len(types), _ROWS):
        mean = of_type[types[rows]]
        around = (edges[rows] @ shares).toarray() / degree[rows, None]
        weights = 1 / (mean + everywhere + 1e-9)
        toward, apart = around - mean, shares[rows].toarray() - mean
        aligned, size = (apart * toward * weights).sum(axis=1), (toward**2 * weights).sum(axis=1)
        scatter = ((toward * weights) ** 2 * mean).sum(axis=1) / total[rows]
        # α by least squares is aligned / size, with the variance scatter / size²; shrunk to 0 by a Gaussian prior.
        found[rows] = aligned * size / np.maximum(size**2 + scatter / _PRIOR**2, 1e-30)
    return found


def _means_by(values: csr_array, codes: np.ndarray) -> np.ndarray:
    size = np.maximum(np.bincount(codes), 1)[:, None]
    return (members(codes, len(size)) @ values).toarray() / size


def _context_of_genes(
    counts: csr_array, edges: csr_matrix, types: np.ndarray, folds: np.ndarray, names: pd.Index
) -> pd.DataFrame:
    """Return the table of genes; cells of fold -1 take no part."""
    import pandas as pd

    values = log_normalized(counts, TARGET_SUM)
    parts = [_products(values, edges, types, np.flatnonzero(folds == fold)) for fold in np.unique(folds[folds >= 0])]
    within, total = np.sum([one for one, _ in parts], axis=0), np.sum([other for _, other in parts], axis=0)
    slopes = np.array([_slope(one) for one, _ in parts])
    se = slopes.std(axis=0, ddof=1) / np.sqrt(len(slopes)) if len(slopes) > 1 else np.full(slopes.shape[1], np.nan)
    slope = _slope(within)
    varies = total > 0
    explained = np.divide(within[0, 1] ** 2, within[1, 1], out=np.zeros_like(total), where=within[1, 1] > 0)
    table = pd.DataFrame(
        {
            "gene": names.astype(str),
            "own_share": 1 - np.divide(within[0, 0], total, out=np.ones_like(total), where=varies),
            "context_share": np.divide(explained, total, out=np.zeros_like(total), where=varies),
            "slope": slope,
            "slope_se": se,
            "z": np.divide(slope, se, out=np.zeros_like(slope), where=se > 0),
        }
    )[varies]
    return table.sort_values("slope", ascending=False, kind="stable").reset_index(drop=True)


def _products(values: csr_array, edges: csr_matrix, types: np.ndarray, cells: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return products of each gene in cells and in rings 1 and 2, centered by type, (3, 3, n_genes); and its total."""
    n_types, n_genes = int(types.max()) + 1, values.shape[1]
    sums, size = np.zeros((3, n_types, n_genes)), np.bincount(types[cells], minlength=n_types)
    products = np.zeros((3, 3, n_genes))
    for rows in slices(len(cells), _ROWS):
        own = cells[rows]
        blocks = [values[own].toarray().astype(np.float64)]
        for ring in rings_of(edges, own, 2):
            degree = np.maximum(np.diff(ring.indptr), 1)[:, None]
            blocks.append((ring @ values).toarray() / degree)
        member = members(types[own], n_types)
        for one, block in enumerate(blocks):
            sums[one] += member @ block
            for other in range(3):
                products[one, other] += (block * blocks[other]).sum(axis=0)
    means = sums / np.maximum(size, 1)[:, None]
    centered = products - np.einsum("itg,jtg->ijg", sums, means)
    total = products[0, 0] - sums[0].sum(axis=0) ** 2 / max(len(cells), 1)
    return centered, np.maximum(total, 0)


def _slope(products: np.ndarray) -> np.ndarray:
    """Return the slope on ring 1, ring 2 held equal, ``(n_genes,)``."""
    own_near, own_far = products[0, 1], products[0, 2]
    near, both, far = products[1, 1], products[1, 2], products[2, 2]
    determinant = near * far - both**2
    slope = own_near * far - own_far * both
    return np.divide(slope, determinant, out=np.zeros_like(slope), where=determinant > 1e-9 * near * far)
