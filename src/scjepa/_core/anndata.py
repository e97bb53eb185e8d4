"""How an AnnData object is read: the object, its layers, arrays and columns, and the next call where one is not there.

Every floor asks here, so that each thing is said once, and that what pandas, Arrow, Dask or a file hold it in makes no
difference. Loads nothing heavy before it is called.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

import numpy as np

from scjepa._core import keys as _keys
from scjepa._core.instruments import how_to_read

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from scipy import sparse

_MOST_NAMES = 12
"""Names that an error lists, at most."""


# -- the object ----------------------------------------------------------------------------------------------------


def require_anndata(data: Any, name: str | None = None) -> None:
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


def refuse_adata(values: Any, what: str) -> None:
    """Raise if ``values``, of which an array is to be made, is AnnData, SpatialData or a path.

    NumPy would slice AnnData cell by cell, for minutes.

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
    if isinstance(values, str | os.PathLike):
        raise TypeError(f"{what} is the text {str(values)!r}, and an array with an entry for each cell is needed.")
    if type(values).__name__ == "SpatialData":
        raise TypeError(
            f"{what} is a SpatialData object, and an array with an entry for each cell is needed: pass a column or a "
            "matrix of its table, adata = scjepa.table_of(sdata), such as adata.obs['niche']."
        )


def missing_key(where: str, key: str | None, available: Iterable[Any], then: str, name: str | None = None) -> KeyError:
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
    near = get_close_matches(str(key), [str(name) for name in there], n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    before = "" if name is None else f"{name!r}: "
    return KeyError(f"{before}adata.{where}[{key!r}] does not exist; adata.{where} holds {names}.{hint} {then}")


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
        if layer not in layers_of(adata):
            raise missing_key(
                "layers", layer, adata.layers, "Name raw counts, or leave the layer out for adata.X.", name
            )
        return adata.layers[layer]
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


def sparse_of(value: Any) -> sparse.csr_matrix:
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


# -- what scjepa noted ---------------------------------------------------------------------------------------------


def notes_of(adata: AnnData) -> dict[str, dict[str, Any]]:
    """Return what scjepa noted in ``uns`` of what it wrote, by key."""
    return {str(key): dict(note) for key, note in dict(adata.uns.get(_keys.UNS, {})).items()}


def joined_notes(notes: Sequence[Mapping[str, Any]], columns: Sequence[Iterable[Any]]) -> dict[str, dict[str, Any]]:
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


def _same(one: Any, other: Any) -> bool:
    return repr(one) == repr(other)
