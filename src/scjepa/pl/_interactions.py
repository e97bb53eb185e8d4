"""Which niches touch, as a heat map."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from scjepa._core import keys as _keys
from scjepa._core.anndata import niches_of, record_of, require_anndata
from scjepa._core.matching import border_shares
from scjepa._core.options import unknown_name
from scjepa._core.palette import MISSING
from scjepa.pl._matrix import heat_map
from scjepa.pl.figure import finish
from scjepa.pl.labels import Labels

if TYPE_CHECKING:
    from anndata import AnnData


def interactions(
    adata: AnnData,
    niche_key: str = _keys.NICHE,
    *,
    values: str = "shares",
    save: str | Path | None = None,
    show: bool = False,
) -> Figure:
    """Draw which niches lie side by side, after :func:`scjepa.tl.niche_interactions`. Nothing is written to ``adata``.

    Parameters
    ----------
    adata
        Annotated data that :func:`scjepa.tl.niche_interactions` was called on.
    niche_key
        Column of ``adata.obs`` with the niches.
    values
        ``"shares"``: of the edges that leave the row's niche for others, the share that goes to the column's: the
        sides on which it borders others. ``"z_scores"``: squidpy's enrichment over shuffled niches; its colors cover
        the range between different niches, since a patch of tissue touches itself most by far.
    save
        File to save the figure in.
    show
        Call ``matplotlib.pyplot.show()``.

    Returns
    -------
    matplotlib.figure.Figure
        One panel, niches in rows and columns in the colors they have in :func:`scjepa.pl.niches`.

    Raises
    ------
    KeyError
        If the interactions are not there.
    ValueError
        If the niches have changed since, or ``values`` is not known.
    """
    if values not in ("shares", "z_scores"):
        raise ValueError(unknown_name("values", values, ("shares", "z_scores")))
    require_anndata(adata)
    key = _keys.as_key(f"{niche_key}{_keys.ENRICHMENT_SUFFIX}")
    again = f"scjepa.tl.niche_interactions(adata, {niche_key!r})"
    if key not in adata.uns or record_of(adata, key).get("slot") != "uns":
        raise KeyError(f"adata.uns has no {key!r} of scjepa's. Compute it first: {again}")
    names = list(niches_of(adata, niche_key).categories)
    if list(record_of(adata, key)["niches"]) != names:
        raise ValueError(f"The niches in adata.obs[{niche_key!r}] have changed since. Compute again: {again}")
    labels = Labels.of(adata, niche_key)
    sides = names, [labels.color_of(name) for name in names]
    if values == "shares":
        shown = border_shares(np.asarray(adata.uns[key]["count"]))
        np.fill_diagonal(shown, np.nan)
        cmap, norm, form, bar = colormaps["Blues"], Normalize(0, 1), ".2f", "share of the row's border"
    else:
        shown = np.asarray(adata.uns[key]["zscore"], dtype=np.float64)
        between = np.abs(shown[~np.eye(len(shown), dtype=bool)])
        limit = float(np.nanmax(between)) if np.isfinite(between).any() else 1.0
        cmap, norm, form, bar = colormaps["PuOr_r"], Normalize(-limit, limit), ".0f", "z-score of edges"
    figure, ax = heat_map(shown, sides, sides, cmap.with_extremes(bad=MISSING), norm, form, bar)
    ax.set_xlabel(f"touches {niche_key}")
    ax.set_ylabel(niche_key)
    return finish(figure, save, show)
