"""How models register an AnnData object: where they look in it, what they check, and whether it has changed since.

scvi-tools' own fields fix the number of genes and the categories seen at set-up, so every new section or panel would be
refused. These fields check and remember names; alignment by name is the model's work.
"""

from __future__ import annotations

import inspect
import weakref
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from anndata import AnnData
from scipy import sparse
from scvi.data.fields import BaseAnnDataField

from scjepa._core.anndata import counts_of, entry_of, missing_key, require_anndata, text_of, warn_of_words
from scjepa._core.files import digest
from scjepa._core.options import unknown_name
from scjepa._core.plain import Facts
from scjepa.tokens.vocabulary import Vocabulary

if TYPE_CHECKING:
    import rich.table

PANEL = "X"
"""Registry key of the counts."""

ONE = "unnamed"
"""Name of the technology, section or batch where the user named none."""


@dataclass(frozen=True)
class Keys:
    """Where in an AnnData object a model finds what it reads; the arguments of its ``setup_anndata``.

    Those of a subclass beside the layer name columns of ``obs``, unless its methods say otherwise.
    """

    layer: str | None = None
    """Layer of raw counts; ``None``: ``X``."""

    @classmethod
    def of(cls, setup: Facts) -> Self:
        """Return the keys among the arguments of ``setup_anndata``, or what :meth:`to_dict` gave."""
        return cls(**{f.name: setup[f.name] for f in fields(cls) if f.name in setup})

    def to_dict(self) -> dict[str, str | None]:
        """Return plain values for JSON."""
        return asdict(self)

    @classmethod
    def for_query(cls, adata: AnnData, registered: Self | None, usual: Self) -> Self:
        """Return where to look in an AnnData object that a model was not made from.

        Parameters
        ----------
        registered
            What the user said of this object with ``setup_anndata``; it wins.
        usual
            The keys of the model's own data. Columns of ``obs`` that ``adata`` has not are left out.
        """
        require_anndata(adata)
        if registered is None:
            require_places(adata, usual)
        found = (registered or usual).to_dict()
        return cls(**{name: key for name, key in found.items() if name == "layer" or key in adata.obs})

    @classmethod
    def to_load(cls, adata: AnnData, registered: Self | None, saved: Self) -> Self:
        """Return where to look in the data that a saved model is loaded on: where it was saved to look, if possible."""
        require_anndata(adata)
        if registered is not None and saved.layer is not None and saved.layer not in adata.layers:
            saved = replace(saved, layer=registered.layer)
        return cls.for_query(adata, None, saved)

    def _columns(self) -> dict[str, str | None]:
        """Return the columns of ``obs`` by what they name."""
        return {name.removesuffix("_key"): key for name, key in self.to_dict().items() if name != "layer"}

    def fields(self) -> list[NamedField]:
        """Return what is registered of an AnnData object, in the order in which it is checked."""
        return [PanelField(self.layer), *(LabelField(name, key) for name, key in self._columns().items())]

    def validate(self, adata: AnnData) -> None:
        """Raise where ``adata`` cannot be used; nothing is written to it, and nothing holds on to it."""
        require_anndata(adata)
        for field in self.fields():
            if not field.is_empty:
                field.validate_field(adata)

    def mark(self, adata: AnnData) -> tuple:
        """Return what differs when tables have to be made anew: a checksum of what they are made from."""
        columns = (digest(text_of(adata.obs[key])) if key else None for key in self._columns().values())
        return adata.shape, digest(list(adata.var_names)), counts_mark(adata, self.layer), *columns


# -- what was said of which object -----------------------------------------------------------------------------------


def whole(adata: AnnData) -> AnnData:
    """Return the AnnData object that a view shows some cells or genes of, any other as it is."""
    return adata._adata_ref if adata.is_view else adata


class SetUps:
    """Keys by AnnData object, for as long as each lives.

    scvi-tools' own store goes by ``uns["_scvi_uuid"]``, which every copy of an object takes with it, and so does a file
    that is written and read again: setting up one of them says nothing of the others. Nothing here holds on to an
    object.
    """

    def __init__(self) -> None:
        self._keys: dict[tuple[type, int], tuple[weakref.ref[AnnData], Keys]] = {}

    def note(self, model: type, adata: AnnData, keys: Keys) -> None:
        """Remember the keys that a class of models was given for ``adata``."""
        known, mark = self._keys, (model, id(adata))
        known[mark] = (weakref.ref(adata, lambda _: known.pop(mark, None)), keys)

    def of(self, model: type, adata: AnnData) -> Any:
        """Return the keys that a class of models was given for ``adata``, or for the object it is a view of."""
        adata = whole(adata)
        entry = self._keys.get((model, id(adata)))
        return None if entry is None or entry[0]() is not adata else entry[1]


SET_UPS = SetUps()


def refuse_unknown(setup: Callable[..., None], arguments: Mapping[str, object]) -> None:
    """Raise if ``setup`` was given an argument that neither it nor scvi-tools' registry takes.

    Raises
    ------
    TypeError
        With the nearest name there is.
    """
    if arguments and "source_registry" not in arguments:
        known = [name for name in inspect.signature(setup).parameters if name not in ("adata", "kwargs")]
        raise TypeError(unknown_name("argument of setup_anndata", next(iter(arguments)), known))


def require_own(adata: AnnData) -> None:
    """Raise if ``adata`` is no AnnData object, or a view of one."""
    require_anndata(adata)
    if adata.is_view:
        raise ValueError("adata is a view of another AnnData object. Make it its own: adata = adata.copy().")


# -- fields ----------------------------------------------------------------------------------------------------------


class NamedField(BaseAnnDataField):
    """A field that checks what it points at and remembers a few facts about it."""

    # Plain attributes in the place of the base's properties.
    registry_key: str = ""
    attr_name: str = ""
    attr_key: str | None = None

    def __init__(self, registry_key: str, attr_name: str, attr_key: str | None):
        self.registry_key, self.attr_name, self.attr_key = registry_key, attr_name, attr_key

    @property
    def is_empty(self) -> bool:
        """Whether the user named no column of ``obs``."""
        return self.attr_name == "obs" and self.attr_key is None

    def validate_field(self, adata: AnnData) -> None:
        """Raise where the field cannot be used."""
        self._state(adata)

    def register_field(self, adata: AnnData) -> dict:
        """Return what is to be remembered."""
        return self._state(adata)

    def transfer_field(self, state_registry: dict, adata_target: AnnData, **kwargs: object) -> dict:
        """Return what is to be remembered of another AnnData; its names are its own."""
        return self._state(adata_target)

    def get_summary_stats(self, state_registry: dict) -> dict:
        """Return counts for scvi-tools' summary."""
        return {}

    def view_state_registry(self, state_registry: dict) -> rich.table.Table | None:
        """Return no table: the model's summary tells."""
        return None

    def _state(self, adata: AnnData) -> dict:
        raise TypeError(f"{type(self).__name__} defines no state.")


class PanelField(NamedField):
    """The counts and the names of their genes."""

    def __init__(self, layer: str | None):
        super().__init__(PANEL, "X" if layer is None else "layers", layer)

    def _state(self, adata: AnnData) -> dict:
        counts_of(adata, self.attr_key)
        if adata.n_obs == 0 or adata.n_vars == 0:
            raise ValueError(f"adata has {adata.n_obs} cells and {adata.n_vars} genes; at least one of each is needed.")
        Vocabulary.from_panels([adata.var_names]).align(adata.var_names, source="adata.var_names")
        return {"column_names": np.asarray(adata.var_names, dtype=str)}

    def get_summary_stats(self, state_registry: dict) -> dict:
        """Return the number of genes."""
        return {"n_vars": len(state_registry.get("column_names", ()))}


class LabelField(NamedField):
    """A column of ``obs`` that names each cell's section, technology or batch; without one, all share one name."""

    def __init__(self, registry_key: str, key: str | None):
        super().__init__(registry_key, "obs", key)

    def get_summary_stats(self, state_registry: dict) -> dict:
        """Return the number of names."""
        return {f"n_{self.registry_key}": len(state_registry.get("categories", ())) or 1}

    def _state(self, adata: AnnData) -> dict:
        then = f"Name the column that holds each cell's {self.registry_key}, or leave it out."
        column = entry_of(adata, "obs", self.attr_key, then)
        absent = column.isna().to_numpy()
        if absent.any():
            raise ValueError(
                f"adata.obs[{self.attr_key!r}] is missing for {absent.sum()} cells, first "
                f"{adata.obs_names[absent.argmax()]!r}. Fill it in, or drop these cells."
            )
        return {"categories": sorted(set(text_of(column)))}

    def register_field(self, adata: AnnData) -> dict:
        """Warn of missing names that were turned into text, and return what is to be remembered."""
        state = super().register_field(adata)
        warn_of_words(text_of(adata.obs[self.attr_key]), self.registry_key, self.attr_key, surely=True)
        return state


def require_places(adata: AnnData, usual: Keys) -> None:
    """Raise where ``adata`` lacks what a model reads in its own data, with the call that helps.

    Parameters
    ----------
    usual
        The keys of the model's own data.

    Raises
    ------
    KeyError
        If there is no such layer, or no coordinates of that name.
    """
    for name, where, what in (("layer", "layers", "counts"), ("spatial_key", "obsm", "coordinates")):
        key, there = getattr(usual, name, None), getattr(adata, where)
        if key is not None and key not in there:
            or_x = ", or without a layer for adata.X" if name == "layer" else ""
            then = (
                f"The model's own data has its {what} there. Tell where these data have them, and then call again: "
                f"setup_anndata(adata, {name}=...){or_x}."
            )
            raise missing_key(where, key, there, then)


# -- columns, and marks of what is read ------------------------------------------------------------------------------


def names_of(adata: AnnData, key: str | None) -> np.ndarray:
    """Return each cell's name in ``obs[key]`` as strings, one name for all where ``key`` is ``None``."""
    return np.full(adata.n_obs, ONE, dtype=object) if key is None else text_of(adata.obs[key])


def codes_of(names: np.ndarray, known: Sequence[str] | None = None) -> np.ndarray:
    """Return the position of each name in ``known`` (default: the names, sorted), -1 where it is not."""
    distinct, inverse = np.unique(names.astype(str), return_inverse=True)
    position = {name: code for code, name in enumerate(distinct if known is None else known)}
    return np.array([position.get(name, -1) for name in distinct], dtype=np.int64)[inverse]


def counts_mark(adata: AnnData, layer: str | None) -> tuple:
    """Return what tells whether counts have changed, without reading a file: a public call asks once.

    Counts in memory have a checksum; those that a file backs have its path, size and time of change; a lazy matrix has
    its identity.
    """
    if adata.isbacked:
        state = Path(adata.filename).stat()
        return str(adata.filename), state.st_size, state.st_mtime_ns
    return checksum(counts_of(adata, layer))


def checksum(matrix: Any) -> tuple:
    """Return a checksum of an array or a sparse matrix, empty for ``None``; of a lazy one its place and identity."""
    if matrix is None:
        return ()
    if sparse.issparse(matrix):
        arrays = [getattr(matrix, name) for name in ("data", "indices", "indptr") if hasattr(matrix, name)]
        return tuple(checksum(array) for array in arrays)
    if isinstance(matrix, np.ndarray):
        return matrix.shape, zlib.crc32(np.ascontiguousarray(matrix).view(np.uint8).ravel().data)
    return getattr(matrix, "shape", None), _file_of(matrix) or id(matrix)


def _file_of(matrix: Any) -> tuple:
    """Return the file or zarr store that a matrix on disk is in, with its size and times; nothing where none is seen.

    Of a zarr store the folder and its metadata are asked, not each of its chunks.
    """
    store = getattr(matrix, "group", matrix)
    path = getattr(store, "store_path", None) or getattr(getattr(store, "file", None), "filename", None)
    place = Path(str(path or "").removeprefix("file://"))
    if path is None or not place.exists():
        return ()
    files = [place, *sorted(place.glob("zarr.json")), *sorted(place.glob(".z*")), *sorted(place.glob("*/zarr.json"))]
    return str(place), getattr(store, "name", None), *((f.stat().st_size, f.stat().st_mtime_ns) for f in files)


def known_ids(vocabulary: Vocabulary, genes: Sequence[str]) -> np.ndarray:
    """Return the vocabulary ids of ``genes``, which a call names.

    Raises
    ------
    ValueError
        If the model does not know one of them.
    """
    ids = vocabulary.align(list(genes), source="genes").ids
    if (ids < 0).any():
        unknown = [name for name, known in zip(genes, ids >= 0, strict=True) if not known]
        raise ValueError(f"The model does not know {len(unknown)} of the genes, such as {unknown[:5]}.")
    return ids
