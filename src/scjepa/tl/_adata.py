"""What the tools read from an AnnData object, checked, and the record of what they wrote into it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from scjepa import _keys
from scjepa._config import unknown_name

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData


def refuse_adata(values: Any, what: str) -> None:
    """Raise if ``values``, of which an array is to be made, is AnnData: NumPy would slice it cell by cell, for minutes.

    Raises
    ------
    TypeError
        With what to pass.
    """
    if hasattr(values, "obs_names"):
        raise TypeError(
            f"{what} is an AnnData object, and an array with an entry for each cell is needed: pass a column or a "
            "matrix of it, such as adata.obs['niche'], adata.obsm['spatial'] or adata.obsm['X_stjepa']."
        )


def as_embedding(values: Any, names: Sequence[str] | None = None, what: str = "the embedding") -> np.ndarray:
    """Return ``values`` as a finite array of shape (n_cells, n_dims).

    Parameters
    ----------
    values
        Array, data frame or sparse matrix.
    names
        Names of the cells, for the error.
    what
        What the values are called in an error.

    Raises
    ------
    ValueError
        If the shape is not (n_cells, n_dims) with at least one of each, or a value is NaN or infinite.
    TypeError
        If ``values`` is AnnData.
    """
    refuse_adata(values, what)
    dense = values.toarray() if hasattr(values, "toarray") else values
    array = np.asarray(dense)
    if array.ndim != 2 or 0 in array.shape:
        raise ValueError(f"{what} must have the shape (n_cells, n_dims), found {array.shape}.")
    if not np.issubdtype(array.dtype, np.floating):
        array = array.astype(np.float32)
    bad = np.flatnonzero(~np.isfinite(array).all(axis=1))
    if len(bad):
        first = f"row {bad[0]}" if names is None else f"cell {names[bad[0]]!r} (row {bad[0]})"
        raise ValueError(
            f"{len(bad)} of {len(array)} cells have NaN or infinite values in {what}; the first is {first}. "
            "Embed them again, or leave them out: keep = np.isfinite(embedding).all(axis=1)."
        )
    return array


def embedding_of(adata: AnnData, use_rep: str) -> np.ndarray:
    """Return ``adata.obsm[use_rep]`` as a finite array; a missing key names those there and the call that makes it."""
    if use_rep not in adata.obsm:
        there = ", ".join(map(repr, adata.obsm)) or "none"
        raise KeyError(
            f"adata.obsm has no {use_rep!r}; keys there: {there}. "
            f"Embed the cells first: adata.obsm[{use_rep!r}] = model.get_latent_representation()"
        )
    return as_embedding(adata.obsm[use_rep], adata.obs_names, f"adata.obsm[{use_rep!r}]")


def column_of(adata: AnnData, key: str) -> pd.Series:
    """Return ``adata.obs[key]``; a missing column is a ``KeyError`` that names the nearest one."""
    if key not in adata.obs:
        raise KeyError(unknown_name("column of adata.obs", key, adata.obs.columns))
    return adata.obs[key]


def categories_of(adata: AnnData, key: str) -> pd.Categorical:
    """Return ``adata.obs[key]`` as categories of text, without those that mean "no label" (``"unlabelled"``).

    A column that is not categorical gets its values in natural order (``"2"`` before ``"10"``). Cells without a label
    have the code -1.

    Raises
    ------
    KeyError
        If there is no such column.
    """
    import pandas as pd

    if key == _keys.NICHE and key not in adata.obs:
        raise KeyError(f"adata.obs has no {key!r}. Find niches first: scjepa.tl.niches(adata)")
    column = column_of(adata, key)
    if isinstance(column.dtype, pd.CategoricalDtype):
        found = column.cat.rename_categories([str(name) for name in column.cat.categories]).array
    else:
        from natsort import natsorted

        text = column.astype(str).where(column.notna())
        found = pd.Categorical(text, categories=natsorted(text.dropna().unique()))
    return found.remove_categories([name for name in _keys.UNLABELLED if name in found.categories])


def niches_of(adata: AnnData, key: str) -> pd.Categorical:
    """Return the niches of all cells as :func:`categories_of` does, niches without a cell left out.

    Raises
    ------
    ValueError
        If no cell has a niche.
    """
    found = categories_of(adata, key).remove_unused_categories()
    if not len(found.categories):
        raise ValueError(f"No cell has a niche in adata.obs[{key!r}]. Find niches first: scjepa.tl.niches(adata)")
    return found


def groups_of(adata: AnnData, key: str | None) -> np.ndarray | None:
    """Return the group of every cell as text, or ``None`` for no groups.

    Raises
    ------
    ValueError
        If a cell has no group.
    """
    if key is None:
        return None
    column = column_of(adata, key)
    missing = np.flatnonzero(column.isna())
    if len(missing):
        raise ValueError(
            f"{len(missing)} cells have no value in adata.obs[{key!r}]; the first is {adata.obs_names[missing[0]]!r}. "
            "Fill the column or leave these cells out."
        )
    return column.astype(str).to_numpy()


def record_of(adata: AnnData, key: str) -> dict[str, Any]:
    """Return what scjepa recorded about ``key``, empty when it did not write it."""
    return dict(adata.uns.get(_keys.UNS, {}).get(key, {}))


def record(adata: AnnData, key: str, **how: Any) -> None:
    """Note in ``adata.uns["scjepa"][key]`` how ``key`` was made; options that are ``None`` are left out."""
    notes = dict(adata.uns.get(_keys.UNS, {}))
    notes[key] = {name: value for name, value in how.items() if value is not None}
    adata.uns[_keys.UNS] = notes


def refuse_users(adata: AnnData, slot: str, key: str) -> None:
    """Raise ``ValueError`` if ``adata.<slot>[key]`` exists and scjepa did not write it."""
    if key in getattr(adata, slot) and record_of(adata, key).get("slot") != slot:
        raise ValueError(
            f"adata.{slot} already has {key!r}, which scjepa did not write and will not replace. "
            f"Choose another name with key_added=..., or remove it first: del adata.{slot}[{key!r}]"
        )
