"""What ST-JEPA registers of an AnnData object with scvi-tools' manager.

scvi-tools' own fields fix the number of genes and the categories seen at set-up, so every new section or panel would be
refused. These fields check and remember names; alignment by name is the model's work.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import rich.table
from anndata import AnnData
from scvi.data.fields import BaseAnnDataField

from scjepa._core import keys as _keys
from scjepa._core.anndata import counts_of, missing_key, require_anndata, text_of, warn_of_words
from scjepa._core.graph import graph_call
from scjepa._core.options import unknown_name
from scjepa._core.warn import warn
from scjepa.stjepa.data import DataKeys
from scjepa.tokens.vocabulary import Vocabulary

PANEL, TECHNOLOGY, SECTION, COORDINATES, GRAPH = "X", "technology", "section", "coordinates", "graph"
"""Registry keys."""


def refuse_unknown(setup: Callable[..., Any], arguments: Mapping[str, Any]) -> None:
    """Raise if ``setup`` was given what neither it nor scvi-tools' registry takes.

    Raises
    ------
    TypeError
        With the nearest name there is.
    """
    if arguments and "source_registry" not in arguments:
        known = [name for name in inspect.signature(setup).parameters if name not in ("adata", "kwargs")]
        raise TypeError(unknown_name("argument of setup_anndata", next(iter(arguments)), known))


class _NamedField(BaseAnnDataField):
    """A field that checks what it points at and remembers a few facts about it."""

    def __init__(self, registry_key: str, attr_name: str, attr_key: str | None):
        self._registry_key = registry_key
        self._attr_name = attr_name
        self._attr_key = attr_key

    @property
    def registry_key(self) -> str:
        """Key in the registry."""
        return self._registry_key

    @property
    def attr_name(self) -> str:
        """Attribute of AnnData."""
        return self._attr_name

    @property
    def attr_key(self) -> str | None:
        """Key within the attribute."""
        return self._attr_key

    @property
    def is_empty(self) -> bool:
        """Whether the user named nothing for this field."""
        return False

    def validate_field(self, adata: AnnData) -> None:
        """Raise where the field cannot be used."""
        self._state(adata)

    def register_field(self, adata: AnnData) -> dict:
        """Return what is to be remembered."""
        return self._state(adata)

    def transfer_field(self, state_registry: dict, adata_target: AnnData, **kwargs: Any) -> dict:
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


class PanelField(_NamedField):
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


class LabelField(_NamedField):
    """A column of ``obs`` that names each cell's section or technology; without one, all cells share one name."""

    def __init__(self, registry_key: str, key: str | None):
        super().__init__(registry_key, "obs", key)

    @property
    def is_empty(self) -> bool:
        """Whether there is no such column: one section, one technology."""
        return self.attr_key is None

    def get_summary_stats(self, state_registry: dict) -> dict:
        """Return the number of names."""
        return {f"n_{self.registry_key}": len(state_registry.get("categories", ())) or 1}

    def _state(self, adata: AnnData) -> dict:
        if self.attr_key not in adata.obs:
            raise missing_key(
                "obs",
                self.attr_key,
                adata.obs.columns,
                f"Name the column that holds each cell's {self.registry_key}, or leave it out.",
            )
        column = adata.obs[self.attr_key]
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


class CoordinatesField(_NamedField):
    """Cell coordinates in ``obsm``."""

    def __init__(self, key: str):
        super().__init__(COORDINATES, "obsm", key)

    def _state(self, adata: AnnData) -> dict:
        if self.attr_key not in adata.obsm:
            raise missing_key(
                "obsm", self.attr_key, adata.obsm, "Put cell coordinates there, or name their key with spatial_key=..."
            )
        shape = adata.obsm[self.attr_key].shape
        if len(shape) != 2 or shape[1] not in (2, 3):
            raise ValueError(f"adata.obsm[{self.attr_key!r}] must have two or three columns, found shape {shape}.")
        return {"n_dimensions": int(shape[1])}


class GraphField(_NamedField):
    """The spatial graph that squidpy wrote to ``obsp``."""

    def __init__(self, key: str, library_key: str | None = None, spatial_key: str = _keys.SPATIAL):
        super().__init__(GRAPH, "obsp", f"{key}_connectivities")
        self.key = key
        self.library_key = library_key
        self.spatial_key = spatial_key

    def _state(self, adata: AnnData) -> dict:
        keys = [f"{self.key}_connectivities", f"{self.key}_distances"]
        if not any(key in adata.obsp for key in keys):
            call = graph_call(adata, self.library_key, neighbors_key=self.key, spatial_key=self.spatial_key)
            then = f"Compute the spatial graph first: {call} (anndata.concat drops graphs unless pairwise=True)."
            raise missing_key("obsp", keys[0], adata.obsp, then)
        return {"keys": [key for key in keys if key in adata.obsp]}


def fields_of(keys: DataKeys) -> list[BaseAnnDataField]:
    """Return what is registered of an AnnData object, in the order in which it is checked."""
    return [
        PanelField(keys.layer),
        LabelField(TECHNOLOGY, keys.technology_key),
        LabelField(SECTION, keys.library_key),
        CoordinatesField(keys.spatial_key),
        GraphField(keys.neighbors_key, keys.library_key, keys.spatial_key),
    ]


def validate(adata: AnnData, keys: DataKeys) -> None:
    """Raise where ``adata`` cannot be used with ``keys``; nothing is written to it, nothing holds on to it."""
    require_anndata(adata)
    for field in fields_of(keys):
        if not field.is_empty:
            field.validate_field(adata)


def require_places(adata: AnnData, usual: Any) -> None:
    """Raise where an AnnData object lacks what a model was told to read in its own data, with the call that helps.

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


def keys_to_load(adata: AnnData, registered: DataKeys | None, saved: DataKeys) -> DataKeys:
    """Return where to look in the data that a saved model is loaded on: where it was saved to look, if that is there.

    Parameters
    ----------
    registered
        What the user said of these data with ``setup_anndata``; it tells of what is not where the model looked.
    saved
        The keys that were saved with the model.
    """
    if registered is not None:
        absent = [name for name in saved.to_dict() if not _is_there(adata, name, getattr(saved, name))]
        saved = replace(saved, **{name: getattr(registered, name) for name in absent})
    return keys_for(adata, None, saved)


def _is_there(adata: AnnData, name: str, key: str | None) -> bool:
    if key is None:
        return True
    if name == "neighbors_key":
        return any(f"{key}_{part}" in adata.obsp for part in ("connectivities", "distances"))
    return key in {"layer": adata.layers, "spatial_key": adata.obsm, "panel_key": adata.varm}.get(name, adata.obs)


def keys_for(adata: AnnData, registered: DataKeys | None, usual: DataKeys) -> DataKeys:
    """Return where to look in an AnnData object that a model was not made from.

    Parameters
    ----------
    registered
        What the user said of this object with ``setup_anndata``; it wins.
    usual
        The keys of the model's own data. A column of sections or technologies that ``adata`` does not have is taken
        as one section, or as one technology that the model does not know, with a warning; a table of panels that it
        does not have is inferred.
    """
    require_anndata(adata)
    if registered is not None:
        return registered
    require_places(adata, usual)
    absent: dict[str, None] = {}
    for name, what in (("library_key", "one section"), ("technology_key", "one technology, not known to the model")):
        key = getattr(usual, name)
        if key is not None and key not in adata.obs:
            absent[name] = None
            warn(
                f"adata.obs has no {key!r}, so all its cells are taken as {what}. If another column tells, name it "
                f"first: setup_anndata(adata, {name}=...)."
            )
    if usual.panel_key is not None and usual.panel_key not in adata.varm:
        absent["panel_key"] = None
    return replace(usual, **absent)  # type: ignore[arg-type]  # only keys that may be None are absent
