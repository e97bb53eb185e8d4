"""How an AnnData object is read: the object, its layers, arrays and columns, and the next call where one is not there.

Every floor asks here, so that each thing is said once, and that what pandas, Arrow, Dask or a file hold it in makes no
difference. What scjepa writes, and notes of it, is here too. Loads nothing heavy before it is called.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from scjepa._core import keys as _keys
from scjepa._core.instruments import how_to_read
from scjepa._core.meaning import did_you_mean
from scjepa._core.plain import Facts, plain
from scjepa._core.warn import warn

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from scipy import sparse

Note: TypeAlias = Facts
"""What scjepa notes of something that it wrote: options by name."""

_MOST_NAMES = 12
"""Names that an error lists, at most."""

_TEXTS_OF_NONE = frozenset({"", "nan", "na", "n/a", "<na>", "none", "null", "nat"})
"""What missing values become when a column is turned into text, in lower case."""

_WORDS_OF_NONE = frozenset(
    {"unknown", "unassigned", "unclassified", "undefined", "undetermined", "unannotated", "not assigned", "no label"}
)
"""Words that most people mean by "no label", and some by a group of their own, in lower case."""


# -- the object ----------------------------------------------------------------------------------------------------


def require_anndata(data: object, name: str | None = None) -> None:
    """Refuse what is no AnnData object, with the call that makes one of it.

    Parameters
    ----------
    data
        What was given as one.
    name
        What it is called where several are given.

    Raises
    ------
    TypeError
        If it is no AnnData object, or one whose ``obs`` is not in memory (:func:`anndata.experimental.read_lazy`).
    """
    from anndata import AnnData
    from pandas import DataFrame

    of = "" if name is None else f" for {name!r}"
    if not isinstance(data, AnnData):
        raise TypeError(f"Expected an AnnData object{of}, found {type(data).__name__}. {_how_to_get_one(data)}")
    if not isinstance(data.obs, DataFrame):
        raise TypeError(
            f"Expected an AnnData object{of} with obs in memory, found one with a {type(data.obs).__name__}, as "
            "read_lazy gives. Read it: adata = adata.to_memory(), or anndata.read_h5ad(path, backed='r'), which leaves "
            "the counts on disk."
        )


def require_cells(adata: AnnData) -> None:
    """Refuse an object without cells, as a selection that chose none leaves it.

    Raises
    ------
    ValueError
        If there are none.
    TypeError
        If it is no AnnData object.
    """
    require_anndata(adata)
    if not adata.n_obs:
        raise ValueError(
            f"adata has no cells (0 cells × {adata.n_vars:,} genes). If it is a selection, nothing meets its "
            "condition: look at the names it is made by, such as adata.obs['section'].unique(), and select anew."
        )


def _how_to_get_one(data: Any) -> str:
    kind = type(data).__name__
    if isinstance(data, str | os.PathLike):
        return how_to_read(data)
    if kind == "SpatialData":
        return "Take its table: scjepa.table_of(sdata)."
    if kind == "MuData":
        return f"Take one of its modalities, {', '.join(map(repr, data.mod))}: adata = mdata.mod[...]."
    if kind == "Raw":
        return "Make one of it: adata.raw.to_adata()."
    if isinstance(data, Mapping | Sequence):
        return "Several AnnData objects become one with scjepa.concat."
    if hasattr(data, "shape"):
        return "Make one of counts, cells × genes: anndata.AnnData(counts), with gene names in var_names."
    return "Read one: adata = anndata.read_h5ad(path)."


def is_array(data: object) -> bool:
    """Return whether a function that takes annotated data or an array was given an array, table or sparse matrix."""
    return hasattr(data, "shape") and not hasattr(data, "obs_names")


def refuse_adata(values: object, what: str) -> None:
    """Raise if ``values``, of which an array is to be made, is AnnData, SpatialData or a path.

    NumPy would slice AnnData cell by cell, for minutes.

    Raises
    ------
    TypeError
        With what to pass.
    """
    needed = "and an array with an entry for each cell is needed"
    if hasattr(values, "obs_names"):
        such_as = "adata.obs['niche'], adata.obsm['spatial'] or adata.obsm['X_stjepa']"
        raise TypeError(f"{what} is an AnnData object, {needed}: pass a column or a matrix of it, such as {such_as}.")
    if isinstance(values, str | os.PathLike):
        raise TypeError(f"{what} is the text {str(values)!r}, {needed}.")
    if type(values).__name__ == "SpatialData":
        of_table = "pass a column or a matrix of its table, adata = scjepa.table_of(sdata), such as adata.obs['niche']"
        raise TypeError(f"{what} is a SpatialData object, {needed}: {of_table}.")


def missing_key(
    where: str, key: str | None, available: Iterable[object], then: str, name: str | None = None
) -> KeyError:
    """Return the error of a key that is not there, with what is and the next call.

    Parameters
    ----------
    where
        Part of the object, such as ``"obs"``.
    key
        What was looked for.
    available
        What is there; ``None``, under which anndata 0.13 lists ``X`` among the layers, is no name.
    then
        The next call.
    name
        What the object is called where several are given.
    """
    there = [name for name in available if name is not None]
    names = ", ".join(map(repr, there[:_MOST_NAMES])) or "nothing"
    names += ", ..." if len(there) > _MOST_NAMES else ""
    before = "" if name is None else f"{name!r}: "
    hint = did_you_mean(key, map(str, there))
    return KeyError(f"{before}adata.{where}[{key!r}] does not exist; adata.{where} holds {names}.{hint} {then}")


def entry_of(adata: AnnData, slot: str, key: str | None, then: str, name: str | None = None) -> Any:
    """Return ``adata.<slot>[key]``, of ``obs``, ``var``, ``obsm``, ``varm`` or ``obsp``.

    Raises
    ------
    KeyError
        If it is not there, with what is and the next call, ``then``. ``name`` is what the object is called where
        several are given.
    """
    entries = getattr(adata, slot)
    if isinstance(key, list | tuple | set | dict | np.ndarray) or hasattr(key, "iloc"):
        raise TypeError(
            f"adata.{slot} is asked for a {type(key).__name__}; pass the name of one of its entries, as text."
        )
    if key not in entries:
        raise missing_key(slot, key, entries, then, name)
    return entries[key]


# -- counts --------------------------------------------------------------------------------------------------------


def layers_of(adata: AnnData) -> list[str]:
    """Return the names of the layers; anndata 0.13 lists ``X`` among them, under ``None``, and that is none."""
    return [name for name in adata.layers if name is not None]


def counts_of(adata: AnnData, layer: str | None, name: str | None = None) -> Any:
    """Return ``adata.X`` or a layer, in memory, on disk or lazy.

    Parameters
    ----------
    name
        What the object is called where several are given.

    Raises
    ------
    KeyError
        If there is no such layer.
    ValueError
        If there is no ``X``.
    """
    if layer is not None:
        return entry_of(adata, "layers", layer, "Name raw counts, or leave the layer out for adata.X.", name)
    if adata.X is None:
        there = ", ".join(map(repr, layers_of(adata))) or "none"
        before = "" if name is None else f"{name!r}: "
        raise ValueError(f"{before}adata.X is empty. Name the layer of raw counts, layer=...; layers there: {there}.")
    return adata.X


# -- arrays and columns --------------------------------------------------------------------------------------------


def in_memory(value: Any) -> Any:
    """Return what Dask computes, or a file holds, as an array or a sparse matrix; anything else as it is."""
    for read in ("compute", "to_memory"):
        if hasattr(value, read):
            return getattr(value, read)()
    is_stored = type(value).__module__.partition(".")[0] in ("h5py", "zarr")
    return value[...] if is_stored else value


def array_of(value: Any) -> np.ndarray:
    """Return a matrix of ``obsm`` as an array, whatever holds it; missing values of nullable columns are NaN.

    Numbers keep their type where all columns have one; what is no number stays an object.
    """
    import pandas as pd
    from scipy import sparse

    value = in_memory(value)
    if sparse.issparse(value):
        return value.toarray()
    if not isinstance(value, pd.DataFrame) or all(isinstance(dtype, np.dtype) for dtype in value.dtypes):
        return np.asarray(value)
    try:
        return value.to_numpy(dtype=np.float64, na_value=np.nan)
    except (TypeError, ValueError):
        return value.to_numpy(dtype=object)


def sparse_of(value: object) -> sparse.csr_matrix:
    """Return a matrix of ``obsp`` as CSR, whatever holds it; stored zeros stay."""
    from scipy import sparse

    return sparse.csr_matrix(in_memory(value))


def text_of(column: pd.Series) -> np.ndarray:
    """Return a column as texts, whatever its type: an object array, ``None`` for missing values."""
    import pandas as pd

    codes, distinct = pd.factorize(column)
    names = np.array([*pd.Index(distinct).astype(str), None], dtype=object)
    return names[codes]


def flags_of(column: pd.Series) -> np.ndarray:
    """Return a column of yes and no as bool, whatever its type; missing values are no.

    Raises
    ------
    ValueError
        If it holds anything else, such as texts, of which ``"False"`` would be true.
    """
    import pandas as pd

    known = pd.unique(column.dropna())
    other = [value for value in known.tolist() if not (isinstance(value, bool | np.bool_) or value in (0, 1))]
    if other:
        raise ValueError(f"The column {column.name!r} must be boolean, found {other[0]!r}.")
    return np.array(column.astype(object).where(column.notna(), False), dtype=bool)


# -- embeddings ----------------------------------------------------------------------------------------------------


def as_embedding(
    values: object,
    names: Sequence[str] | None = None,
    what: str = "the embedding",
    *,
    first: int = 0,
    then: str = "Embed them again, or leave them out: keep = np.isfinite(embedding).all(axis=1).",
) -> np.ndarray:
    """Return ``values`` as a finite array of shape (n_cells, n_dims).

    Parameters
    ----------
    values
        Array, data frame or sparse matrix.
    names
        Names of the cells, for the error.
    what
        What the values are called in an error.
    first
        Row of the first cell, where the values are a block of an embedding.
    then
        The next call, where values are not finite.

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
        row = f"row {first + bad[0]}"
        cell = row if names is None else f"cell {names[bad[0]]!r} ({row})"
        raise ValueError(
            f"{len(bad)} of {len(array)} cells have NaN or infinite values in {what}; the first is {cell}. {then}"
        )
    return array


def embedding_of(adata: AnnData, use_rep: str) -> np.ndarray:
    """Return ``adata.obsm[use_rep]`` as a finite array; a missing key names those there and the call that makes it."""
    require_cells(adata)
    place, scale = f"adata.obsm[{use_rep!r}]", "scale='cell'" if use_rep == _keys.EMBEDDING_CELL else ""
    then = f"Embed the cells first: {place} = model.get_latent_representation({scale})"
    return as_embedding(entry_of(adata, "obsm", use_rep, then), adata.obs_names, place)


# -- columns of labels and groups ----------------------------------------------------------------------------------


def labels_of(column: pd.Series) -> np.ndarray:
    """Return the labels of cells as text, ``None`` for cells without: missing values, and ``"unlabelled"``."""
    text = text_of(column)
    text[np.isin(text.astype(str), _keys.UNLABELLED) & (text != None)] = None  # noqa: E711 - of each element
    return text


def means_none(word: str, *, surely: bool = False) -> bool:
    """Return whether ``word`` may mean "no label"; ``surely``: it is what missing values become as text."""
    plain = word.strip().casefold()
    return plain in _TEXTS_OF_NONE or (not surely and plain in _WORDS_OF_NONE)


def warn_of_words(labels: Iterable[object], what: str, key: str | None = None, *, surely: bool = False) -> None:
    """Warn of words that may mean "no label" and count as labels of their own.

    Parameters
    ----------
    labels
        Label of each cell, ``None`` for none.
    what
        What a label is, such as ``"label"`` or ``"technology"``.
    key
        Column of ``obs`` that they are in; ``None``: they are no column.
    surely
        Whether to tell only of what missing values become as text.
    """
    import pandas as pd

    values = np.asarray(labels, dtype=object)
    doubtful = [name for name in pd.unique(values) if isinstance(name, str) and means_none(name, surely=surely)]
    for name in sorted(doubtful):
        then = f"make it missing (NaN), or pass ignore=[{name!r}]."
        if key is not None:
            then = f"adata.obs[{key!r}] = adata.obs[{key!r}].where(adata.obs[{key!r}] != {name!r})."
        warn(
            f"{(values == name).sum():,} cells have the {what} {name!r}, a text that counts as one of its own. If it "
            f"means none: {then}"
        )


def column_of(adata: AnnData, key: str, then: str = "Name one of these.", name: str | None = None) -> pd.Series:
    """Return ``adata.obs[key]``; where it is missing the ``KeyError`` ends in the next call, ``then``."""
    require_anndata(adata)
    return entry_of(adata, "obs", key, then, name)


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
        raise KeyError(f"adata.obs has no {key!r}. Find niches first: scjepa.tl.find_niches(adata)")
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
        If there are no cells, or none has a niche.
    """
    require_cells(adata)
    found = categories_of(adata, key).remove_unused_categories()
    if not len(found.categories):
        raise ValueError(f"No cell has a niche in adata.obs[{key!r}]. Find niches first: scjepa.tl.find_niches(adata)")
    return found


def names_of(adata: AnnData, key: str, name: str | None = None) -> np.ndarray:
    """Return ``adata.obs[key]`` of every cell as text: its section, or another group that each cell has.

    Raises
    ------
    KeyError
        If there is no such column.
    ValueError
        If a cell has no value there.
    """
    column = column_of(adata, key, name=name)
    missing = np.flatnonzero(column.isna())
    if len(missing):
        before = "" if name is None else f"{name!r}: "
        raise ValueError(
            f"{before}{len(missing)} cells have no value in adata.obs[{key!r}]; the first is "
            f"{adata.obs_names[missing[0]]!r}. Fill the column or leave these cells out."
        )
    return text_of(column)


def groups_of(adata: AnnData, key: str | None) -> np.ndarray | None:
    """Return :func:`names_of` the column, or ``None`` where none is named: all cells are one group."""
    return None if key is None else names_of(adata, key)


# -- what scjepa noted ---------------------------------------------------------------------------------------------


def notes_of(adata: AnnData) -> dict[str, Note]:
    """Return what scjepa noted in ``uns`` of what it wrote, by key."""
    return {str(key): dict(note) for key, note in dict(adata.uns.get(_keys.UNS, {})).items()}


def joined_notes(notes: Sequence[Mapping[str, Note]], columns: Sequence[Iterable[object]]) -> dict[str, Note]:
    """Return what can be noted of columns of ``obs`` that were put together from several objects.

    A column is scjepa's where it is in every object that has it. How it was made is what all say alike; of niches the
    largest number is kept, so that their names can be told from a user's.

    Parameters
    ----------
    notes
        Those of each object, by key.
    columns
        Names of the columns of each object.
    """
    there = [set(map(str, names)) for names in columns]
    joined = {}
    for key in sorted(set().union(*notes)):
        own = [
            dict(note[key]) if key in note else None for note, names in zip(notes, there, strict=True) if key in names
        ]
        written = [note for note in own if note is not None and note.get("slot") == "obs"]
        if not written or len(written) < len(own):
            continue
        first, *others = written
        joined[key] = {name: value for name, value in first.items() if all(_same(value, o.get(name)) for o in others)}
        if "n_niches" in first:
            joined[key]["n_niches"] = max(int(note["n_niches"]) for note in written)
    return joined


def _same(one: object, other: object) -> bool:
    return repr(one) == repr(other)


def record_of(adata: AnnData, key: str) -> Note:
    """Return what scjepa recorded about ``key``, empty when it did not write it."""
    require_anndata(adata)
    return notes_of(adata).get(key, {})


def record(adata: AnnData, key: str, **how: object) -> None:
    """Note in ``adata.uns["scjepa"][key]`` how ``key`` was made; options that are ``None`` are left out."""
    notes = dict(adata.uns.get(_keys.UNS, {}))
    notes[key] = {name: plain(value) for name, value in how.items() if value is not None}
    adata.uns[_keys.UNS] = notes


def refuse_renamed(adata: AnnData, key: str) -> None:
    """Raise ``ValueError`` if niches that scjepa wrote to ``adata.obs[key]`` have other names by now."""
    if key not in adata.obs:
        return
    noted = record_of(adata, key)
    written = {*map(str, noted.get("names", range(int(noted.get("n_niches", 0))))), _keys.UNKNOWN}
    if not set(adata.obs[key].dropna().astype(str)) <= written:
        raise ValueError(
            f"The niches in adata.obs[{key!r}] were renamed after scjepa wrote them, and it will not replace them. "
            f"Choose another name with key_added=..., or remove the column first: del adata.obs[{key!r}]"
        )


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
