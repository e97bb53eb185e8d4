"""Whether a file holds raw counts, and where."""

from __future__ import annotations

from typing import Any

from anndata.io import sparse_dataset

from scjepa._core.counts import holds_counts
from scjepa.cli._cells import X, matrix_of
from scjepa.cli._files import H5AD, DataFile

RAW = "raw"
"""Where AnnData keeps what was set aside, often the counts of a file whose X is normalized."""


def holds_raw_counts(file: DataFile, layer: str | None) -> bool:
    """Return whether a layer, or ``X``, of a file has whole numbers from 0 on; its first cells tell.

    Raises
    ------
    ValueError
        If there is no such layer.
    """
    with file.opened() as group:
        return holds_counts(_opened(matrix_of(group, layer, file)))


def places_of_counts(file: DataFile, layer: str | None) -> list[str]:
    """Return the layers, :data:`X` and :data:`RAW` that hold raw counts, other than the one that is named."""
    with file.opened() as group:
        layers = sorted(group["layers"]) if "layers" in group else []
        places = {**{name: f"layers/{name}" for name in layers if name != layer}, RAW: f"{RAW}/X"}
        if layer not in (None, X):
            places = {X: X, **places}
        return [name for name, place in places.items() if place in group and holds_counts(_opened(group[place]))]


def where_counts_are(file: DataFile, layer: str | None) -> str:
    """Return where in a file raw counts are, and the option or call that takes them."""
    found = places_of_counts(file, layer)
    if not found:
        return "No layer holds raw counts, nor does 'raw': take the file that these values were made from."
    if found[0] != RAW:
        return f"Raw counts are in {'X' if found[0] == X else f'the layer {found[0]!r}'}: --layer {found[0]}."
    table = "" if file.table is None else ", the table of the SpatialData object"
    read = "read_h5ad" if file.kind == H5AD else "read_zarr"
    path = file.path if file.table is None else file.path / "tables" / file.table
    return (
        f"Raw counts are in 'raw', as adata.raw{table}. Write them to a file of their own, with obs and obsm, in "
        f"Python: anndata.{read}({str(path)!r}).raw.to_adata().write_h5ad('{file.name}_raw.h5ad')."
    )


def _opened(element: Any) -> Any:
    """Return a matrix in a file such that it can be sliced without reading all of it."""
    return sparse_dataset(element) if hasattr(element, "keys") else element
