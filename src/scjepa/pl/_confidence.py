"""Confidence on the tissue, section by section."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from scjepa._core import keys as _keys
from scjepa._core.anndata import column_of, require_anndata
from scjepa.pl._numbers import Numbers
from scjepa.pl._tissue import Layer, MapOptions, draw_map
from scjepa.pl.labels import Labels

if TYPE_CHECKING:
    from anndata import AnnData


def confidence(
    adata: AnnData,
    key: str = _keys.NICHE_CONFIDENCE,
    *,
    reference: str | None = None,
    library_key: str | None = None,
    spatial_key: str = _keys.SPATIAL,
    unit: str | None = None,
    pixel_size: float | None = None,
    ncols: int | None = None,
    size: float | None = None,
    ax: Axes | None = None,
    save: str | Path | None = None,
    show: bool = False,
) -> Figure:
    """Draw each cell's confidence in its niche on the tissue, one panel for each section.

    Colors run from 0 to 1 in every figure, so that figures can be compared. The least sure cells lie on top, those
    without a confidence are gray. Nothing is written to ``adata``.

    Parameters
    ----------
    adata
        Annotated data with ``obs[key]``, shares in [0, 1], and ``obsm[spatial_key]``.
    key
        Column of ``adata.obs`` that :func:`scjepa.tl.niche_confidence` wrote.
    reference
        Column of ``adata.obs`` with labels to draw beside it, such as ``"niche"``, in its own colors.
    library_key, spatial_key, unit, pixel_size, ncols, size, ax, save, show
        As in :func:`scjepa.pl.niches`.

    Returns
    -------
    matplotlib.figure.Figure
        The figure; its panels are ``figure.axes``.

    Raises
    ------
    KeyError
        If a column or ``spatial_key`` is not there.
    ValueError
        If the confidence is not a number in [0, 1], no cell has coordinates, or ``ax`` is given for more than one
        panel.
    """
    require_anndata(adata)
    if key == _keys.NICHE_CONFIDENCE and key not in adata.obs:
        raise KeyError(
            f"adata.obs has no {key!r}. Compute it first: "
            "scjepa.tl.niche_confidence(adata, model.get_masked_representations())"
        )
    drawn: list[Layer] = [Numbers(key, _shares(adata, key), 0.0, 1.0)]
    if reference is not None:
        drawn.append(Labels.of(adata, reference))
    return draw_map(adata, drawn, MapOptions(library_key, spatial_key, unit, pixel_size, ncols, size, ax, save, show))


def _shares(adata: AnnData, key: str) -> np.ndarray:
    column = column_of(adata, key)
    if not pd.api.types.is_numeric_dtype(column):
        raise ValueError(f"adata.obs[{key!r}] must hold numbers in [0, 1], found {column.dtype}.")
    values = column.to_numpy(dtype=np.float64, na_value=np.nan)
    found = values[~np.isnan(values)]
    if len(found) and (found.min() < 0 or found.max() > 1):
        raise ValueError(
            f"adata.obs[{key!r}] must hold numbers in [0, 1], found {found.min():.3g} to {found.max():.3g}."
        )
    return values
