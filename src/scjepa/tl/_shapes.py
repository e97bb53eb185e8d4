"""Shapes of niches: the pieces each lies in, how large, how long and how round they are."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse import csr_matrix

from scjepa._core import keys as _keys
from scjepa._core.anndata import entry_of, groups_of, niches_of
from scjepa._core.arrays import tissue
from scjepa._core.graph import section_key_of, spatial_graph_of
from scjepa._core.plain import whole
from scjepa._core.warn import warn

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

_LONGEST = 4.0
"""Sides of a triangle, in medians of all sides of its section, above which it spans a gap and is no tissue."""


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
    graph = spatial_graph_of(adata, neighbors_key, library_key)
    names = groups_of(adata, section_key_of(adata, library_key))
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
            rows.append(
                {
                    "niche": niches.categories[codes[cells[0]]],
                    "section": "" if names is None else names[cells[0]],
                    "n_cells": len(cells),
                    "area": area,
                    "border_length": border,
                    "outline": outline,
                    "linearity": _linearity(xy[cells, :2]),
                    "compactness": 4 * np.pi * area / outline**2 if outline > 0 else np.nan,
                }
            )
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
