"""What the tools read from an AnnData object, checked, and the record of what they wrote into it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from scjepa._core import keys as _keys
from scjepa._core.anndata import array_of, counts_of, missing_key, notes_of, refuse_adata, require_anndata, text_of
from scjepa._core.counts import advice_on
from scjepa._core.labels import means_none, warn_of_words
from scjepa._core.options import unknown_name
from scjepa._core.plain import plain
from scjepa.tokens.counts import CountCheck

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

    from scjepa.tl._moments import Features


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
    array = array_of(values)
    if array.ndim != 2 or 0 in array.shape:
        raise ValueError(f"{what} must have the shape (n_cells, n_dims), found {array.shape}.")
    if not np.issubdtype(array.dtype, np.floating):
        try:
            array = array.astype(np.float32)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{what} must hold numbers, found {array.dtype}: {error}.") from error
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
    require_anndata(adata)
    if use_rep not in adata.obsm:
        scale = "scale='cell'" if use_rep == _keys.EMBEDDING_CELL else ""
        call = f"adata.obsm[{use_rep!r}] = model.get_latent_representation({scale})"
        raise missing_key("obsm", use_rep, adata.obsm, f"Embed the cells first: {call}")
    return as_embedding(adata.obsm[use_rep], adata.obs_names, f"adata.obsm[{use_rep!r}]")


def expression_of(adata: AnnData, layer: str | None) -> Features:
    """Return raw counts, to be read chunk by chunk and log-normalized, with errors that name cells and genes.

    Raises
    ------
    KeyError, ValueError
        If there is no such layer, or no ``X``.
    """
    from scjepa.tl._moments import TARGET_SUM, Features

    require_anndata(adata)
    check = CountCheck(adata.obs_names, adata.var_names, advice_on(adata, layer))
    return Features(counts_of(adata, layer), TARGET_SUM, check)


def column_of(adata: AnnData, key: str) -> pd.Series:
    """Return ``adata.obs[key]``; a missing column is a ``KeyError`` that names the nearest one."""
    require_anndata(adata)
    if key not in adata.obs:
        raise KeyError(unknown_name("column of adata.obs", key, list(map(str, adata.obs.columns))))
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

    require_anndata(adata)
    if key == _keys.NICHE and key not in adata.obs:
        raise KeyError(f"adata.obs has no {key!r}. Find niches first: scjepa.tl.niches(adata)")
    column = column_of(adata, key)
    if isinstance(column.dtype, pd.CategoricalDtype):
        names = [str(name) for name in column.cat.categories]
        if len(set(names)) == len(names):  # and not 1 beside "1"
            found = column.cat.rename_categories(names).array
        else:
            found = pd.Categorical(text_of(column), categories=list(dict.fromkeys(names)))
    else:
        from natsort import natsorted

        text = text_of(column)
        found = pd.Categorical(text, categories=natsorted({name for name in text if name is not None}))
    if any(means_none(name, surely=True) for name in found.categories):
        warn_of_words(found.dropna(), "label", key, surely=True)
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
    return text_of(column)


def record_of(adata: AnnData, key: str) -> dict[str, Any]:
    """Return what scjepa recorded about ``key``, empty when it did not write it."""
    require_anndata(adata)
    return notes_of(adata).get(key, {})


def record(adata: AnnData, key: str, **how: Any) -> None:
    """Note in ``adata.uns["scjepa"][key]`` how ``key`` was made; options that are ``None`` are left out."""
    notes = dict(adata.uns.get(_keys.UNS, {}))
    notes[key] = {name: plain(value) for name, value in how.items() if value is not None}
    adata.uns[_keys.UNS] = notes


def refuse_users(adata: AnnData, slot: str, key: str, noted: str | None = None) -> None:
    """Raise ``ValueError`` if ``adata.<slot>[key]`` exists and scjepa did not write it, or no file can hold the key.

    Parameters
    ----------
    noted
        Slot that the note names, where more than one is written under ``key``. Default: ``slot``.
    """
    require_anndata(adata)
    if _keys.as_key(key) != key:
        raise ValueError(
            f"{key!r} cannot be a key of adata.{slot}: h5ad or zarr could not hold it. Choose another name, such as "
            f"key_added={_keys.as_key(key)!r}."
        )
    if key in getattr(adata, slot) and record_of(adata, key).get("slot") != (noted or slot):
        raise ValueError(
            f"adata.{slot} already has {key!r}, which scjepa did not write and will not replace; or its note in "
            f"adata.uns[{_keys.UNS!r}] was lost, as anndata.concat loses it (scjepa.concat does not). "
            f"Choose another name with key_added=..., or remove it first: del adata.{slot}[{key!r}]"
        )
