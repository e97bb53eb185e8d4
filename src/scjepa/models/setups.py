"""What ``setup_anndata`` was told of AnnData objects, of each object by itself."""

from __future__ import annotations

import weakref
from typing import Any

from anndata import AnnData


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
        self._told: dict[tuple[type, int], tuple[weakref.ref[AnnData], Any]] = {}

    def note(self, model: type, adata: AnnData, keys: Any) -> None:
        """Remember what a class of models was told of ``adata``."""
        told, mark = self._told, (model, id(adata))
        told[mark] = (weakref.ref(adata, lambda _: told.pop(mark, None)), keys)

    def of(self, model: type, adata: AnnData) -> Any:
        """Return what a class of models was told of ``adata`` or, of a view, what it was told of the whole."""
        adata = whole(adata)
        found = self._told.get((model, id(adata)))
        return None if found is None or found[0]() is not adata else found[1]


SET_UPS = SetUps()
