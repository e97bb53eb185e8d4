"""Marker genes of niches, by scanpy on normalized counts; the user's X stays as it is."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING

from scjepa._core import keys as _keys
from scjepa._core.anndata import niches_of, record, refuse_users
from scjepa._core.counts import log_normalized_cells
from scjepa._core.warn import warn

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

COLUMNS = {
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
        If fewer than two niches have two cells, counts are negative or NaN, or ``uns`` has ``key_added`` and scjepa
        did not write it.
    """
    import pandas as pd
    import scanpy as sc

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
    with warnings.catch_warnings():
        # scanpy inserts column after column; nothing a user can do about it.
        warnings.filterwarnings("ignore", message="DataFrame is highly fragmented")
        sc.tl.rank_genes_groups(
            holder,
            niche_key,
            reference=compared,
            method=method,
            n_genes=n_genes,
            tie_correct=method == "wilcoxon",
            pts=True,
            use_raw=False,
            key_added=key_added,
        )
    adata.uns[key_added] = holder.uns[key_added]
    record(
        adata,
        key_added,
        slot="uns",
        niche_key=niche_key,
        layer=layer,
        reference=reference,
        method=method,
        n_genes=n_genes,
    )
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
    table = table.rename(columns=COLUMNS).reset_index(drop=True)
    return table[[name for name in COLUMNS.values() if name in table]]
