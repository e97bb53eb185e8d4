"""Two columns of niches side by side, as a matrix."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib import colormaps
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from scjepa.pl._matrix import heat_map
from scjepa.pl.figure import finish
from scjepa.pl.labels import Labels
from scjepa.tl import compare_niches

if TYPE_CHECKING:
    from anndata import AnnData


def compare(adata: AnnData, a: str, b: str, *, save: str | Path | None = None, show: bool = False) -> Figure:
    """Draw how two columns of niches go together, partners on the diagonal. Nothing is written to ``adata``.

    Numbers are shares of the row's cells. The title tells the share of cells in matched niches, the normalized mutual
    information and the adjusted Rand index of :func:`scjepa.tl.compare_niches`.

    Parameters
    ----------
    adata
        Annotated data.
    a, b
        Columns of ``adata.obs``, in rows and in columns. ``b`` without colors of its own takes those of its partners.
    save
        File to save the figure in.
    show
        Call ``matplotlib.pyplot.show()``.

    Returns
    -------
    matplotlib.figure.Figure
        One panel.

    Raises
    ------
    KeyError
        If a column is not there.
    ValueError
        If no cell has a niche in both.
    """
    found = compare_niches(adata, a, b)
    partners = found.matching["b"].dropna()
    columns = [*partners, *(name for name in found.counts.columns if name not in set(partners))]
    rows = [*found.matching["a"][partners.index], *found.matching["a"].drop(partners.index)]
    counts = found.counts.loc[rows, columns].to_numpy()
    first = Labels.of(adata, a)
    second = Labels.of(adata, b).colored_like(first)
    figure, ax = heat_map(
        counts / counts.sum(axis=1, keepdims=True),
        (rows, [first.color_of(name) for name in rows]),
        (columns, [second.color_of(name) for name in columns]),
        colormaps["Blues"],
        Normalize(0, 1),
        ".2f",
        "share of the row's cells",
    )
    ax.set_xlabel(b)
    ax.set_ylabel(a)
    # Left-aligned to the figure: a matrix may be narrower than its title.
    figure.suptitle(
        f"{found.agreement:.0%} of {found.n_cells:,} cells in matched niches\nNMI {found.nmi:.2f}, ARI {found.ari:.2f}",
        fontsize=10,
    )
    return finish(figure, save, show)
