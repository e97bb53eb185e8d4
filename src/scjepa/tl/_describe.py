"""What niches consist of and look like: cell types, contacts, marker genes and their modules, shapes, partners."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.sparse import csr_matrix

from scjepa._core import keys as _keys
from scjepa._core.anndata import (
    Note,
    categories_of,
    counts_of,
    entry_of,
    niches_of,
    record,
    refuse_users,
    require_anndata,
)
from scjepa._core.arrays import tissue
from scjepa._core.counts import TARGET_SUM, log_normalized_cells
from scjepa._core.graph import sections_of
from scjepa._core.html import as_html
from scjepa._core.matching import best_matching, border_shares, contingency
from scjepa._core.options import unknown_name
from scjepa._core.plain import whole
from scjepa._core.squidpy import squidpy
from scjepa._core.warn import warn

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData


_COLUMNS = {
    "group": "niche",
    "names": "gene",
    "scores": "score",
    "logfoldchanges": "log2_fold_change",
    "pvals": "p_value",
    "pvals_adj": "p_adjusted",
    "pct_nz_group": "share_in",
    "pct_nz_reference": "share_out",
}
"""Columns of :func:`niche_markers` by scanpy's names."""

_LONGEST = 4.0
"""Sides of a triangle, in medians of all sides of its section, above which it spans a gap and is no tissue."""
_TESTS = ("wilcoxon", "t-test", "t-test_overestim_var", "logreg")
"""Methods of :func:`niche_markers`."""


class NicheComparison(NamedTuple):
    """Two columns of niches compared.

    Attributes
    ----------
    counts
        Cells in each pair of niches: a data frame with the niches of ``a`` in rows, those of ``b`` in columns.
    matching
        The one-to-one matching that shares most cells, one row for each niche of ``a``: ``a``; ``b``, its partner
        (NaN where it has none); ``shared``, cells of both; ``of_a`` and ``of_b``, their share of the one and of the
        other; ``jaccard``, their share of the cells of either.
    agreement
        Share of the cells that lie in matched niches.
    nmi, ari
        Normalized mutual information and adjusted Rand index, which need no matching.
    n_cells
        Cells that have a niche in both columns; the others are left out.
    """

    counts: pd.DataFrame
    matching: pd.DataFrame
    agreement: float
    nmi: float
    ari: float
    n_cells: int

    def _repr_html_(self) -> str:
        return as_html(self)


def compare_niches(adata: AnnData, a: str, b: str) -> NicheComparison:
    """Compare two columns of niches, such as those of two models, two seeds, or niches and annotated regions.

    Parameters
    ----------
    adata
        Annotated data; nothing is written to it.
    a, b
        Columns of ``adata.obs``. Cells without a value (NaN or ``"unlabelled"``) in either are left out.

    Returns
    -------
    NicheComparison
        ``counts``, ``matching``, ``agreement``, ``nmi``, ``ari`` and ``n_cells``.

    Raises
    ------
    KeyError
        If a column is not there.
    ValueError
        If no cell has a niche in both.

    Examples
    --------
    >>> scjepa.tl.niches(adata, key_added="niche_seed1", random_state=1)
    >>> scjepa.tl.compare_niches(adata, "niche", "niche_seed1").matching
    """
    import pandas as pd
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    first, second = niches_of(adata, a), niches_of(adata, b)
    both = (first.codes >= 0) & (second.codes >= 0)
    if not both.any():
        raise ValueError(f"No cell has a niche in both adata.obs[{a!r}] and adata.obs[{b!r}].")
    first, second = first[both].remove_unused_categories(), second[both].remove_unused_categories()
    rows, columns = pd.Index(first.categories, name=a), pd.Index(second.categories, name=b)
    counts = contingency(first.codes, second.codes, (len(rows), len(columns)))
    matching = _matching_table(counts, rows, columns)
    pairs = [pd.factorize(niches)[0] for niches in (first, second)]  # in the order of the cells, as in metrics
    return NicheComparison(
        counts=pd.DataFrame(counts, index=rows, columns=columns),
        matching=matching,
        agreement=float(matching["shared"].sum() / counts.sum()),
        nmi=float(normalized_mutual_info_score(*pairs)),
        ari=float(adjusted_rand_score(*pairs)),
        n_cells=int(both.sum()),
    )


def _matching_table(counts: np.ndarray, rows: pd.Index, columns: pd.Index) -> pd.DataFrame:
    import pandas as pd

    partner = best_matching(counts)
    place = np.array([partner.get(row, -1) for row in range(len(rows))])
    shared = np.where(place >= 0, counts[np.arange(len(rows)), place], 0)
    in_row, in_column = counts.sum(axis=1), np.where(place >= 0, counts.sum(axis=0)[place], 0)
    return pd.DataFrame(
        {
            "a": list(rows),
            "b": [columns[column] if column >= 0 else np.nan for column in place],
            "shared": shared,
            "of_a": shared / in_row,
            "of_b": shared / np.where(place >= 0, in_column, np.nan),
            "jaccard": shared / (in_row + in_column - shared),
        }
    )


class Composition(NamedTuple):
    """Cells of each niche by label: data frames with niches in rows, labels in columns.

    Attributes
    ----------
    counts
        Number of cells, int64.
    shares
        Share of the niche's cells, float64; every row sums to 1.
    """

    counts: pd.DataFrame
    shares: pd.DataFrame

    def _repr_html_(self) -> str:
        return as_html(self)


def niche_composition(adata: AnnData, niche_key: str = _keys.NICHE, *, by: str = _keys.CELL_TYPE) -> Composition:
    """Count the cells of each niche by cell type, section or any other column.

    Swap the two columns for the reverse, such as the niches of each section:
    ``niche_composition(adata, "section", by="niche")``.

    Parameters
    ----------
    adata
        Annotated data; nothing is written to it.
    niche_key
        Column of ``adata.obs`` with niches. Cells without a niche are left out.
    by
        Column of ``adata.obs`` with labels. Cells without a label (NaN or ``"unlabelled"``) are counted in a last
        column ``"unlabelled"``, which is there only if it is needed.

    Returns
    -------
    Composition
        ``counts`` and ``shares``. Niches and labels stand in the order of their categories; labels without any cell
        are left out.

    Raises
    ------
    KeyError
        If a column is not there.
    ValueError
        If no cell has a niche.

    Examples
    --------
    >>> counts, shares = scjepa.tl.niche_composition(adata, by="cell_type")
    """
    import pandas as pd

    found, labels = niches_of(adata, niche_key), categories_of(adata, by)
    names = [*labels.categories, _keys.UNLABELLED[0]]
    codes = np.where(labels.codes < 0, len(names) - 1, labels.codes)
    counts = pd.DataFrame(
        contingency(found.codes, codes, (len(found.categories), len(names))),
        index=pd.Index(found.categories, name=niche_key),
        columns=pd.Index(names, name=by),
    )
    counts = counts.loc[:, (counts > 0).any()]
    return Composition(counts, counts.div(counts.sum(axis=1), axis=0))


class Interactions(NamedTuple):
    """How often cells of one niche are neighbors of cells of another: data frames, niches in rows and columns.

    Attributes
    ----------
    z_scores
        Standard deviations by which ``counts`` exceeds its mean over shuffled niches (squidpy's ``zscore``); NaN
        where shuffling never changes the count. It grows with the number of cells.
    counts
        Edges of the spatial graph from cells of the row's niche to cells of the column's.
    shares
        ``counts`` as shares of the edges that leave the row's niche, its own left out: the sides on which it borders
        others. A row sums to 1, or is NaN where a niche touches no other.
    """

    z_scores: pd.DataFrame
    counts: pd.DataFrame
    shares: pd.DataFrame

    def _repr_html_(self) -> str:
        return as_html(self)


def niche_interactions(
    adata: AnnData,
    niche_key: str = _keys.NICHE,
    *,
    neighbors_key: str = _keys.SPATIAL,
    library_key: str | None = None,
    n_permutations: int = 1000,
    random_state: int = 0,
) -> Interactions:
    """Tell which niches lie side by side, by :func:`squidpy.gr.nhood_enrichment`.

    Niches are patches of tissue, so that they touch themselves most and nearly all others less than shuffled cells
    would; the ``shares`` tell which borders a niche has.

    Parameters
    ----------
    adata
        Annotated data with niches and squidpy's spatial graph.
    niche_key
        Column of ``adata.obs`` with niches. Cells without a niche are left out.
    neighbors_key
        squidpy's ``key_added``: the graph is ``obsp[f"{neighbors_key}_connectivities"]``.
    library_key
        Column of ``adata.obs`` that tells sections apart: niches are shuffled within each. ``None``: ``"section"`` if
        there is such a column, else all cells are one section.
    n_permutations
        Times to shuffle.
    random_state
        Seed of the shuffling.

    Returns
    -------
    Interactions
        ``z_scores``, ``counts`` and ``shares``. Also written, so that ``squidpy.pl.nhood_enrichment`` can draw it:
        ``adata.uns[f"{niche_key}_nhood_enrichment"]``, with a note in ``adata.uns["scjepa"]``.

    Raises
    ------
    KeyError
        If the niches, the graph or ``library_key`` are not there.
    ValueError
        If there are fewer than two niches, an edge joins two sections, or ``uns`` has an enrichment that scjepa did
        not write.
    """
    import pandas as pd
    from anndata import AnnData

    key = _keys.as_key(f"{niche_key}{_keys.ENRICHMENT_SUFFIX}")
    refuse_users(adata, "uns", key)
    found = niches_of(adata, niche_key)
    names = found.categories
    if len(names) < 2:
        raise ValueError(f"adata.obs[{niche_key!r}] has one niche, {names[0]!r}; two or more are needed.")
    whole("n_permutations", n_permutations, least=2)
    graph, sections, library_key = sections_of(adata, neighbors_key, library_key)
    rows = np.flatnonzero(found.codes >= 0)
    section = pd.Categorical(np.zeros(len(rows)) if sections is None else sections[rows])
    obs = pd.DataFrame({"niche": found[rows], "section": section}, index=adata.obs_names[rows])
    holder = AnnData(obs=obs, obsp={"spatial_connectivities": graph[rows][:, rows]})
    how: Note = {"library_key": "section", "n_perms": n_permutations, "seed": random_state, "n_jobs": 1}
    with np.errstate(divide="ignore", invalid="ignore"):
        result = squidpy().gr.nhood_enrichment(holder, "niche", copy=True, show_progress_bar=False, **how)
    z_scores = np.where(np.isfinite(result.zscore), result.zscore, np.nan)
    counts = np.asarray(result.counts).astype(np.int64)
    adata.uns[key] = {"zscore": z_scores, "count": counts}
    noted: Note = {"n_permutations": n_permutations, "random_state": random_state}
    record(adata, key, slot="uns", niches=list(names), neighbors_key=neighbors_key, library_key=library_key, **noted)
    side = pd.Index(names, name=niche_key)
    return Interactions(*(pd.DataFrame(each, side, side) for each in (z_scores, counts, border_shares(counts))))


def niche_markers(
    adata: AnnData,
    niche_key: str = _keys.NICHE,
    *,
    layer: str | None = None,
    reference: str = "rest",
    method: str = "wilcoxon",
    n_genes: int | None = None,
    key_added: str = _keys.NICHE_MARKERS,
) -> pd.DataFrame:
    """Rank the genes that tell each niche from the other cells, by :func:`scanpy.tl.rank_genes_groups`.

    Counts are scaled to the median total of a cell and log1p'd in a copy. Niches were found from the same counts, so
    the p-values are no test of whether a niche exists; rank by them, and judge by the fold change and the shares. Genes
    that a technology did not measure count as 0 in its cells: rank one technology at a time, or the genes they share.

    Parameters
    ----------
    adata
        Annotated data with raw counts and niches.
    niche_key
        Column of ``adata.obs`` with niches. Cells without a niche are left out, and so are niches of a single cell.
    layer
        Layer of raw counts; default: ``X``.
    reference
        Niche to compare with; ``"rest"``: all other cells.
    method
        scanpy's: ``"wilcoxon"`` (with correction for ties, of which sparse counts have many), ``"t-test"``,
        ``"t-test_overestim_var"`` or ``"logreg"``, which has no p-values.
    n_genes
        Best genes of each niche to keep. ``None``: all.
    key_added
        Key in ``adata.uns`` of scanpy's own result.

    Returns
    -------
    pandas.DataFrame
        A row for each niche and gene, best first: ``niche``, ``gene``, ``score`` (the test's), ``log2_fold_change``,
        ``p_value``, ``p_adjusted`` (Benjamini-Hochberg within a niche), ``share_in`` and ``share_out`` (cells of the
        niche, and of the cells compared with, that have a count). Also writes ``adata.uns[key_added]``, in scanpy's
        format, and a note in ``adata.uns["scjepa"]``. scanpy's format has niches as keys: of a niche that no file can
        hold in a key (``"L2/3"``) the key there is derived from its name.

    Warns
    -----
    UserWarning
        If the counts are not whole numbers, or niches of one cell are left out.

    Raises
    ------
    KeyError
        If the niches or the layer are not there.
    ValueError
        If fewer than two niches have two cells, ``method`` is not known, ``n_genes`` is below 1, counts are negative or
        NaN, or ``uns`` has ``key_added`` and scjepa did not write it.
    """
    import pandas as pd
    import scanpy as sc

    if method not in _TESTS:
        raise ValueError(unknown_name("method", method, _TESTS))
    if n_genes is not None:
        whole("n_genes", n_genes, least=1)
    refuse_users(adata, "uns", key_added)
    niches = niches_of(adata, niche_key)
    holder = log_normalized_cells(adata, layer, cells=niches.codes >= 0)
    found = holder.obs[niche_key] = pd.Series(niches[niches.codes >= 0], index=holder.obs_names)
    sizes = found.value_counts()
    single = [name for name in found.cat.categories if sizes[name] < 2]
    if single:
        warn(f"Niches of one cell are left out: {', '.join(single)}.")
        holder = holder[~found.isin(single)].copy()
    groups = list(holder.obs[niche_key].cat.categories)
    if len(groups) < 2:
        raise ValueError(f"Two niches of two cells or more are needed in adata.obs[{niche_key!r}], found {groups}.")
    if reference != "rest" and reference not in groups:
        raise ValueError(f"reference must be 'rest' or one of the niches {groups}, found {reference!r}.")
    niche_of = {_keys.as_key(name): name for name in groups}  # scanpy makes keys of niches, which files must hold
    holder.obs[niche_key] = holder.obs[niche_key].cat.rename_categories(list(niche_of))
    compared = reference if reference == "rest" else _keys.as_key(reference)
    how: Note = {"method": method, "n_genes": n_genes}
    with warnings.catch_warnings():
        # scanpy inserts column after column; nothing a user can do about it.
        warnings.filterwarnings("ignore", message="DataFrame is highly fragmented")
        # A gene that does not vary has no score and comes last.
        warnings.filterwarnings("ignore", message="invalid value encountered in divide", category=RuntimeWarning)
        options: Note = {"tie_correct": method == "wilcoxon", "pts": True, "use_raw": False, "key_added": key_added}
        sc.tl.rank_genes_groups(holder, niche_key, reference=compared, **how, **options)
    adata.uns[key_added] = holder.uns[key_added]
    record(adata, key_added, slot="uns", niche_key=niche_key, layer=layer, reference=reference, **how)
    return _tidy(holder, key_added, compared, niche_of)


def _tidy(holder: AnnData, key: str, reference: str, niche_of: Mapping[str, str]) -> pd.DataFrame:
    """Return scanpy's result as one table, the shares of cells with a count from whatever was compared with."""
    import scanpy as sc

    table = sc.get.rank_genes_groups_df(holder, group=None, key=key)
    if reference != "rest":
        table["pct_nz_reference"] = table["names"].map(holder.uns[key]["pts"][reference])
    if "group" not in table:  # scanpy leaves it out where one niche is compared
        table["group"] = holder.uns[key]["names"].dtype.names[0]
    table["group"] = table["group"].astype(str).map(niche_of)
    table = table.rename(columns=_COLUMNS).reset_index(drop=True)
    return table[[name for name in _COLUMNS.values() if name in table]]


def gene_modules(
    adata: AnnData,
    n_modules: int = 50,
    *,
    layer: str | None = None,
    n_genes: int = 2000,
    n_comps: int = 50,
    seed: int = 0,
    key_added: str = "module",
) -> None:
    """Group the highly variable genes of raw counts into modules of co-expression.

    Counts are log-normalized and genes scaled to unit variance; a gene is then described by its loadings on the
    principal components times their standard deviations, so that cosines between genes are their correlations, noise
    left out; k-means on these directions gives the modules. For modules that are known beforehand read a GMT file,
    :func:`scjepa.datasets.read_gmt`.

    Writes ``adata.var[key_added]``.

    Parameters
    ----------
    adata
        Cells × genes with raw counts.
    n_modules
        Modules to find.
    layer
        Layer of raw counts. Default: ``X``.
    n_genes
        Highly variable genes that are grouped; the others get no module.
    n_comps
        Principal components, at most one fewer than there are cells or grouped genes.
    seed
        Seed of PCA and k-means.
    key_added
        Column of ``var``: ``"module_00"``, ``"module_01"``, ... (categorical; module 0 has most genes), missing for
        genes without one.

    Raises
    ------
    KeyError
        If there is no such layer.
    ValueError
        If there are no counts, a value cannot be a count, or there are fewer genes that vary, or cells, than modules of
        two genes each take.

    Warns
    -----
    UserWarning
        If values are not whole numbers.
    """
    import pandas as pd
    import scanpy as sc
    from sklearn.cluster import KMeans
    from sklearn.preprocessing import normalize

    require_anndata(adata)
    counts_of(adata, layer)
    _check_enough(n_modules, min(n_genes, adata.n_vars), adata.n_obs)
    data = log_normalized_cells(adata, layer, TARGET_SUM)
    sc.pp.highly_variable_genes(data, n_top_genes=min(n_genes, adata.n_vars))
    grouped = np.flatnonzero(data.var["highly_variable"].to_numpy())
    _check_enough(n_modules, len(grouped), adata.n_obs)
    data = data[:, grouped].copy()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "zero-centering a sparse")  # few genes are left, so that may be
        sc.pp.scale(data, max_value=10)
    sc.pp.pca(data, n_comps=min(n_comps, data.n_obs - 1, data.n_vars - 1), random_state=seed)
    spread = np.sqrt(data.uns["pca"]["variance"])
    directions = normalize(data.varm["PCs"] * spread)
    found = KMeans(n_modules, n_init=4, random_state=seed).fit_predict(directions)
    by_size = np.argsort(-np.bincount(found, minlength=n_modules), kind="stable")
    codes = np.full(adata.n_vars, -1)
    codes[grouped] = np.argsort(by_size)[found]
    digits = max(2, len(str(n_modules - 1)))
    names = [f"module_{number:0{digits}d}" for number in range(n_modules)]
    adata.var[key_added] = pd.Categorical.from_codes(codes, names)


def _check_enough(n_modules: int, n_genes: int, n_cells: int) -> None:
    if n_modules < 2 or n_genes < 2 * n_modules or n_cells < 3:
        raise ValueError(
            f"{n_modules} modules of two genes or more cannot be found among {n_genes} genes that vary over {n_cells} "
            "cells. Ask for fewer, n_modules=..., but two at least."
        )


# -- shapes ------------------------------------------------------------------------------------------------------------


def niche_shapes(
    adata: AnnData,
    niche_key: str = _keys.NICHE,
    *,
    library_key: str | None = None,
    neighbors_key: str = _keys.SPATIAL,
    spatial_key: str = _keys.SPATIAL,
    min_cells: int = 20,
) -> pd.DataFrame:
    """Measure the pieces of tissue that niches lie in.

    A piece is a connected component of the spatial graph within a niche. Areas and lengths come from the Delaunay
    triangulation of each section, without triangles that span gaps (a side above four times the median): each triangle
    is shared by its three cells, and where they belong to different pieces the border runs through the middle of its
    sides. So areas of all cells add up to the tissue. A border through scattered cells is jagged, and longer by about a
    tenth than a smooth one would be.

    Parameters
    ----------
    adata
        Annotated data with niches, coordinates and squidpy's spatial graph; nothing is written to it.
    niche_key
        Column of ``adata.obs`` with niches. Cells without one are a piece of nothing, but take their share of the area.
    library_key
        Column of ``adata.obs`` that tells sections apart. Default: ``"section"`` if there is such a column.
    neighbors_key
        squidpy's ``key_added``.
    spatial_key
        Key in ``adata.obsm`` of the coordinates; the first two axes are used.
    min_cells
        Pieces of fewer cells are left out, 3 at least.

    Returns
    -------
    pandas.DataFrame
        A row for each piece, largest first within niche: ``niche``; ``section``; ``piece`` (from 0); ``n_cells``;
        ``area`` (squared unit of the coordinates); ``border_length``, its border with other pieces and niches (unit of
        the coordinates); ``outline``, that and the edge of the tissue along it; ``linearity``, 1 less the ratio of the
        variances along the short and the long principal axis (0: round or square, near 1: a straight band; a bent band
        is rounder than it looks); ``compactness``, ``4π · area / outline²`` (a smooth disc has 1).

    Warns
    -----
    UserWarning
        If a niche has no piece of ``min_cells`` cells.

    Raises
    ------
    KeyError
        If niches, coordinates, the graph or ``library_key`` are not there.
    ValueError
        If no cell has a niche, an edge joins two sections, or the cells of a section lie on one line.

    Examples
    --------
    >>> pieces = scjepa.tl.niche_shapes(adata)
    >>> pieces.groupby("niche")[["n_cells", "area", "linearity"]].median()
    """
    import pandas as pd
    from scipy.sparse.csgraph import connected_components

    whole("min_cells", min_cells, least=3)
    niches = niches_of(adata, niche_key)
    codes = np.asarray(niches.codes).astype(np.int64)
    graph, names, _ = sections_of(adata, neighbors_key, library_key)
    places = entry_of(adata, "obsm", spatial_key, "Write the coordinates of the cells there.")
    xy, sections = tissue(places, names, adata.n_obs)
    edges = graph.tocoo()
    same = (codes[edges.row] == codes[edges.col]) & (codes[edges.row] >= 0)
    kept = csr_matrix((np.ones(same.sum()), (edges.row[same], edges.col[same])), shape=graph.shape)
    pieces = connected_components(kept, directed=False)[1].astype(np.int64)
    pieces[codes < 0] = -1
    measured = _measured(xy[:, :2], sections, pieces)
    rows = []
    order, starts = np.argsort(pieces, kind="stable"), np.searchsorted(np.sort(pieces), np.arange(pieces.max() + 2))
    for piece in range(pieces.max() + 1):
        cells = order[starts[piece] : starts[piece + 1]]
        if len(cells) >= min_cells:
            area, border, edge = measured[:, piece]
            outline = border + edge
            compactness = 4 * np.pi * area / outline**2 if outline > 0 else np.nan
            of = niches.categories[codes[cells[0]]], "" if names is None else names[cells[0]], len(cells)
            rows.append((*of, area, border, outline, _linearity(xy[cells, :2]), compactness))
    columns = ["niche", "section", "n_cells", "area", "border_length", "outline", "linearity", "compactness"]
    table = pd.DataFrame(rows, columns=columns)
    table["niche"] = pd.Categorical(table["niche"], categories=niches.categories)
    without = [str(name) for name in niches.categories if not (table["niche"] == name).any()]
    if without:
        warn(f"Niches without a piece of {min_cells} cells are left out: {', '.join(without)}. See min_cells.")
    table = table.sort_values(["niche", "n_cells"], ascending=[True, False], kind="stable", ignore_index=True)
    table.insert(2, "piece", table.groupby("niche", observed=True).cumcount())
    return table


def _linearity(xy: np.ndarray) -> float:
    short, long = np.linalg.eigvalsh(np.cov(xy.T))
    return float(1 - max(short, 0.0) / long) if long > 0 else np.nan


def _measured(xy: np.ndarray, sections: np.ndarray, pieces: np.ndarray) -> np.ndarray:
    """Return area, border and tissue edge of each piece, (3, n_pieces)."""
    found = np.zeros((3, pieces.max() + 2))  # the last: cells without a niche
    for section in np.unique(sections):
        cells = np.flatnonzero(sections == section)
        triangles = cells[_triangles(xy[cells])]
        corners, of = xy[triangles], pieces[triangles]
        for corner in range(3):
            np.add.at(found[0], of[:, corner], _areas(corners) / 3)
            _add_border(found[1], corners, of, corner)
        _add_edge(found[2], xy, triangles, pieces)
    return found[:, :-1]


def _triangles(xy: np.ndarray) -> np.ndarray:
    """Return the corners of the Delaunay triangles that do not span a gap, (n_triangles, 3)."""
    from scipy.spatial import Delaunay, QhullError

    try:
        triangles = Delaunay(xy).simplices
    except (QhullError, ValueError) as error:
        raise ValueError(f"{len(xy)} cells of a section lie on one line or are too few: they have no area.") from error
    sides = np.linalg.norm(xy[triangles] - xy[np.roll(triangles, 1, axis=1)], axis=2)
    return triangles[sides.max(axis=1) <= _LONGEST * np.median(sides)]


def _areas(corners: np.ndarray) -> np.ndarray:
    one, other = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    return np.abs(one[:, 0] * other[:, 1] - one[:, 1] * other[:, 0]) / 2


def _add_border(border: np.ndarray, corners: np.ndarray, of: np.ndarray, corner: int) -> None:
    """Add the border between one corner of each triangle and the two others to the pieces of all.

    Alone against two of one piece it is the line through the middle of its two sides. Three pieces meet in the center
    of the triangle: then the border of two of them runs from there to the middle of their side.
    """
    own, (left, right) = of[:, corner], ((of[:, (corner + step) % 3]) for step in (1, 2))
    alone = (own != left) & (left == right)
    across = np.linalg.norm(corners[:, (corner + 1) % 3] - corners[:, (corner + 2) % 3], axis=1) / 2
    for piece in (own, left):
        np.add.at(border, piece[alone], across[alone])
    three = (own != left) & (left != right) & (own != right)
    middle = (corners[:, corner] + corners[:, (corner + 1) % 3]) / 2
    length = np.linalg.norm(corners.mean(axis=1) - middle, axis=1)
    for piece in (own, left):
        np.add.at(border, piece[three], length[three])


def _add_edge(edge: np.ndarray, xy: np.ndarray, triangles: np.ndarray, pieces: np.ndarray) -> None:
    """Add the sides that only one triangle has, the edge of the tissue, half to each of their cells."""
    sides = np.sort(np.concatenate([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [0, 2]]]), axis=1)
    found, times = np.unique(sides, axis=0, return_counts=True)
    outer = found[times == 1]
    length = np.linalg.norm(xy[outer[:, 0]] - xy[outer[:, 1]], axis=1) / 2
    for side in (0, 1):
        np.add.at(edge, pieces[outer[:, side]], length)
