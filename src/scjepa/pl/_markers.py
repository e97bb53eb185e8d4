"""Marker genes of niches, by scanpy's dot and matrix plots."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from scjepa._core import keys as _keys
from scjepa._core.anndata import niches_of, record_of
from scjepa._core.counts import log_normalized_cells
from scjepa._core.options import unknown_name
from scjepa.pl._matrix import color_marks
from scjepa.pl.figure import finish
from scjepa.pl.labels import Labels

if TYPE_CHECKING:
    from anndata import AnnData

_ACROSS = 30
"""Genes that fit side by side on a page; more stand in rows."""

_SCALE = "mean log count,\nscaled by gene"


def markers(
    adata: AnnData,
    *,
    n_genes: int = 3,
    style: str = "dot",
    key: str = _keys.NICHE_MARKERS,
    save: str | Path | None = None,
    show: bool = False,
) -> Figure:
    """Draw the marker genes of each niche, after :func:`scjepa.tl.niche_markers`, by scanpy.

    Each gene stands once, under the niche in which its score is highest. Colors are log-normalized counts, made again
    as for the ranking and scaled to [0, 1] for each gene; ``adata`` is left as it is.

    Parameters
    ----------
    adata
        Annotated data that :func:`scjepa.tl.niche_markers` was called on.
    n_genes
        Genes of each niche at most, those with positive scores.
    style
        ``"dot"``: the size of a dot is the share of cells with a count (:class:`scanpy.pl.DotPlot`). ``"matrix"``:
        means alone (:class:`scanpy.pl.MatrixPlot`).
    key
        Key in ``adata.uns`` of the ranking.
    save
        File to save the figure in.
    show
        Call ``matplotlib.pyplot.show()``.

    Returns
    -------
    matplotlib.figure.Figure
        The figure, genes in columns; in rows if there are more than 30.

    Raises
    ------
    KeyError
        If the ranking or its niches are not there.
    ValueError
        If ``style`` is not known, ``n_genes`` is not positive, or no gene has a positive score.
    """
    import scanpy as sc

    if style not in ("dot", "matrix"):
        raise ValueError(unknown_name("style", style, ("dot", "matrix")))
    if n_genes < 1:
        raise ValueError(f"n_genes must be positive, found {n_genes}.")
    how = record_of(adata, key)
    if key not in adata.uns or "niche_key" not in how:
        raise KeyError(f"adata.uns has no {key!r} of scjepa's. Rank the genes first: scjepa.tl.niche_markers(adata)")
    niche_key = how["niche_key"]
    found = _best_genes(adata.uns[key], n_genes)
    if not found:
        raise ValueError(f"No gene in adata.uns[{key!r}] has a positive score.")
    niches = niches_of(adata, niche_key)
    holder = log_normalized_cells(adata, how.get("layer"), cells=niches.codes >= 0)
    holder.obs[niche_key] = niches[niches.codes >= 0]
    niche_of = {_keys.as_key(name): name for name in holder.obs[niche_key].cat.categories}
    genes = {niche_of.get(niche, niche): names for niche, names in found.items()}
    across = sum(map(len, genes.values())) <= _ACROSS
    how_drawn = {"standard_scale": "var", "use_raw": False}
    if style == "dot":
        plot = sc.pl.DotPlot(holder, genes, niche_key, **how_drawn)
        plot.legend(colorbar_title=_SCALE, size_title="cells with\na count (%)")
    else:
        plot = sc.pl.MatrixPlot(holder, genes, niche_key, **how_drawn)
        plot.legend(title=_SCALE)
    plot.style(cmap="Blues")
    if not across:
        plot.swap_axes()
    plot.make_figure()
    if not across:
        # scanpy turns these names and cuts those of small groups.
        for text, niche in zip(plot.ax_dict["gene_group_ax"].texts, genes, strict=True):
            text.set(text=niche, rotation=0, horizontalalignment="left")
    labels = Labels.of(adata, niche_key)
    names = list(holder.obs[niche_key].cat.categories)
    colors = [labels.color_of(name) for name in names]
    color_marks(plot.ax_dict["mainplot_ax"], colors, "left" if across else "bottom", start=0.5)
    return finish(plot.fig, save, show)


def _best_genes(ranking: dict, n_genes: int) -> dict[str, list[str]]:
    """Return up to ``n_genes`` genes of each niche, best first: those that score positive, and nowhere higher."""
    names, scores = pd.DataFrame(ranking["names"]), pd.DataFrame(ranking["scores"])
    table = pd.DataFrame(
        {
            "niche": np.repeat(names.columns, len(names)),
            "gene": names.to_numpy().T.ravel(),
            "score": scores.to_numpy().T.ravel(),
        }
    )
    table = table[table["score"] > 0].sort_values("score", ascending=False, kind="stable").drop_duplicates("gene")
    best = {niche: list(table.loc[table["niche"] == niche, "gene"][:n_genes]) for niche in names.columns}
    return {niche: genes for niche, genes in best.items() if genes}
