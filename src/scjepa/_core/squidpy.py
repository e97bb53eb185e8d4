"""What scjepa calls of squidpy under changing names, and how messages write these calls.

squidpy 1.8.2 gave ``spatial_neighbors`` a function for each kind of graph, and 1.9 takes it away; ``calculate_niche``
goes the same way. Everything that builds a graph, computes squidpy's niches or tells the user to do so asks here.
squidpy is imported by what runs it, never by what only names it.

It needs nothing but Python: the peers of a benchmark are given this file alone.
"""

from __future__ import annotations

import inspect
import re
import sys
import warnings
from importlib.metadata import PackageNotFoundError, version
from types import EllipsisType, ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from anndata import AnnData

_NAMED_BY_KIND = (1, 8, 2)
"""First version of squidpy with a function for each kind of graph."""
_DEFAULT_NEIGHBORS = 6
"""squidpy's own number of nearest neighbors."""
_RENAMED = {"random_state": "rng", "n_components": "n_clusters"}
"""Arguments of ``calculate_niche`` and their names in the functions of the single flavors."""


def squidpy() -> ModuleType:
    """Return the package, imported without what it says of its own documentation while it is imported."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is not a valid key!.*")
        import squidpy as sq
    return sq


def _has(name: str) -> bool:
    """Return whether the installed squidpy has ``gr.<name>``, a function of 1.8.2; import nothing."""
    functions = getattr(sys.modules.get("squidpy"), "gr", None)
    if functions is not None:
        return hasattr(functions, name)
    try:
        numbers = re.findall(r"\d+", version("squidpy"))[:3]
    except PackageNotFoundError:  # whoever installs it gets a new one
        return True
    return tuple(map(int, numbers)) >= _NAMED_BY_KIND


def graph_call(
    n_neighs: int | EllipsisType = 10,
    library_key: str | EllipsisType | None = None,
    *,
    key_added: str = "spatial",
    spatial_key: str = "spatial",
) -> str:
    """Return the call that builds a graph of nearest neighbors in the installed squidpy, for a message.

    Parameters
    ----------
    n_neighs
        Neighbors of each cell; ``...`` leaves the number to the reader.
    library_key
        Column that tells sections apart; ``...`` leaves it to the reader, ``None`` leaves it out.
    key_added, spatial_key
        Prefix of the graph's keys, and the key of the coordinates; squidpy's own is left out.
    """
    by_kind = _has("spatial_neighbors_knn")
    words = ["adata", f"n_neighs={'...' if n_neighs is ... else n_neighs}"]
    if not by_kind:
        words.append("coord_type='generic'")
    if library_key is not None:
        words.append(f"library_key={'...' if library_key is ... else repr(library_key)}")
    keys = {"key_added": key_added, "spatial_key": spatial_key}
    words += [f"{name}={key!r}" for name, key in keys.items() if key != "spatial"]
    return f"sq.gr.spatial_neighbors{'_knn' if by_kind else ''}({', '.join(words)})"


def spatial_graph(adata: AnnData, kind: str = "knn", **arguments: Any) -> None:
    """Write a spatial graph to ``obsp`` and ``uns``, as the functions ``squidpy.gr.spatial_neighbors_<kind>`` do.

    Parameters
    ----------
    adata
        Cells with coordinates in ``obsm["spatial"]``.
    kind
        ``"knn"`` (``n_neighs`` nearest neighbors), ``"radius"``, ``"delaunay"`` or ``"grid"``.
    arguments
        Arguments of the function, such as ``library_key``, the categorical column of sections, which no edge joins.

    Raises
    ------
    ValueError
        If a section has too few cells for that many nearest neighbors each.
    """
    if kind == "knn":
        _refuse_small_sections(adata, arguments.get("n_neighs", _DEFAULT_NEIGHBORS), arguments.get("library_key"))
    functions = squidpy().gr
    build = getattr(functions, f"spatial_neighbors_{kind}", None)
    if build is not None:
        build(adata, **arguments)
        return
    legacy = {"delaunay": True} if kind == "delaunay" else {}
    functions.spatial_neighbors(adata, coord_type="grid" if kind == "grid" else "generic", **legacy, **arguments)


def _refuse_small_sections(adata: AnnData, n_neighs: int, library_key: str | None) -> None:
    """Raise if a section has no more cells than each of them is to have neighbors."""
    sizes = adata.obs[library_key].value_counts().to_dict() if library_key in adata.obs else {"": adata.n_obs}
    name = min(sizes, key=lambda one: int(sizes[one]), default="")
    size = sizes.get(name, 0)
    if size <= n_neighs:
        section = f"The section {str(name)!r} has" if library_key in adata.obs else "There are"
        fewer = f", or take fewer: {graph_call(size - 1, library_key)}" if size > 1 else ""
        unused = "" if size else f": adata.obs[{library_key!r}].cat.remove_unused_categories()"
        raise ValueError(f"{section} {size} cells, too few for {n_neighs} neighbors each. Leave it out{unused}{fewer}.")


def calculate_niche(adata: AnnData, flavor: str, seed: int, **arguments: Any) -> None:
    """Write squidpy's niches of one flavor to ``obs``, seeded where squidpy takes a seed for it.

    Parameters
    ----------
    adata
        Cells with the spatial graph.
    flavor
        ``"neighborhood"``, ``"utag"``, ``"cellcharter"`` or ``"spatialleiden"``.
    seed
        Seed of what is random in it.
    arguments
        Arguments of ``squidpy.gr.calculate_niche``, by its names.
    """
    functions = squidpy().gr
    own = getattr(functions, f"calculate_niche_{flavor}", None)
    if own is None:
        if flavor in ("cellcharter", "spatialleiden"):
            arguments["random_state"] = seed
        functions.calculate_niche(adata, flavor=flavor, **arguments)
        return
    takes = inspect.signature(own).parameters
    if "rng" in takes or "random_state" in takes:
        arguments["random_state"] = seed
    own(adata, **{name if name in takes else _RENAMED.get(name, name): value for name, value in arguments.items()})
