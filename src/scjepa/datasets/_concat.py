"""Several AnnData objects as one: with their spatial graphs, sections, technologies and panels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import anndata as ad
import numpy as np
import pandas as pd
from anndata import AnnData

from scjepa._core import keys as _keys
from scjepa._core.anndata import (
    array_of,
    counts_of,
    entry_of,
    flags_of,
    joined_notes,
    names_of,
    notes_of,
    require_anndata,
    sparse_of,
    text_of,
)
from scjepa._core.counts import CountMatrix, iter_rows
from scjepa._core.graph import graph_keys
from scjepa._core.renamed import renamed
from scjepa._core.squidpy import graph_call
from scjepa._core.warn import warn
from scjepa.tokens.vocabulary import likely_cause


@renamed(section_key="library_key=")
def concat(
    adatas: Mapping[str, AnnData] | Sequence[AnnData],
    *,
    layer: str | None = None,
    library_key: str = _keys.SECTION,
    technology_key: str = _keys.TECHNOLOGY,
    panel_key: str = _keys.PANEL,
    spatial_key: str = _keys.SPATIAL,
    neighbors_key: str = _keys.SPATIAL,
) -> AnnData:
    """Put several AnnData objects together, ready for ``setup_anndata``.

    :func:`anndata.concat` with ``join="outer"``, which by itself drops spatial graphs and makes zeros of what was not
    measured. Here graphs are kept, without an edge between objects, and a table says which technology measured which
    gene. The objects are not changed.

    Parameters
    ----------
    adatas
        Objects by name, or a list of them (their names are then ``"0"``, ``"1"``, ...). All have raw counts and
        coordinates; all have a spatial graph of squidpy, or none has one.
    layer
        Layer of raw counts, which becomes ``X``. Default: ``X``.
    library_key
        ``obs`` column of the sections. An object without it is one section, of its name. A section name that several
        objects have is preceded by that of the object, as in ``"V1-1"``.
    technology_key
        ``obs`` column of the technologies. An object without it is of a technology of its own, of its name.
    panel_key
        ``varm`` key of the table of panels that is written, with a column for each technology, of its name; of a name
        that no file can hold in a key (``"10x/Visium"``), one that is derived from it, which ``setup_anndata`` finds. A
        technology of several objects measured the genes that it measured in all of them. In an object with several
        technologies and no such table of its own, a technology measured the genes of which one of its cells has a
        count.
    spatial_key
        ``obsm`` key of the coordinates.
    neighbors_key
        squidpy's ``key_added``.

    Returns
    -------
    AnnData
        Cells in the order given, genes sorted; ``X`` (zeros where a gene was not measured), ``obs`` with all columns,
        the sections and the technologies among them (one that is text in some objects and numbers in others becomes
        text), ``obsm[spatial_key]``, the graph in ``obsp`` and ``uns``, and
        ``varm[panel_key]``. Columns of ``var`` that do not disagree are kept; other layers and matrices are not. Names
        of cells that occur twice get ``-`` and the name of their object. Of columns that scjepa wrote, such as niches,
        the notes in ``uns["scjepa"]`` are kept, so that it may write them anew.

    Raises
    ------
    ValueError, TypeError, KeyError
        If there is no object, an object is no AnnData or is backed, lacks coordinates or counts, or has gene names
        twice; only some have a graph, or graphs are of two kinds; or an object has no gene in common with any other.

    Warns
    -----
    UserWarning
        If genes of two objects differ in upper and lower case only, for they count as different genes.

    Examples
    --------
    >>> adata = scjepa.concat({"V1": starmap, "osmFISH": osmfish})
    >>> keys = {"technology_key": "technology", "library_key": "section", "panel_key": "panel"}
    >>> scjepa.STJEPA.setup_anndata(adata, **keys)
    """
    named = dict(adatas) if isinstance(adatas, Mapping) else {str(i): adata for i, adata in enumerate(adatas)}
    named = {str(name): adata for name, adata in named.items()}
    if not named:
        raise ValueError("There is nothing to concatenate: pass AnnData objects, by name or as a list.")
    for name, adata in named.items():
        _check(name, adata, layer, spatial_key)
    _check_shared({name: adata.var_names for name, adata in named.items()})
    graph = _graph_params(named, neighbors_key)
    sections = _sections(named, library_key)
    technologies = {name: _labels(adata, technology_key, name) for name, adata in named.items()}

    light = {}
    for name, adata in named.items():
        obs = adata.obs.assign(**{library_key: sections[name], technology_key: technologies[name]})
        obsp = {key: sparse_of(adata.obsp[key]) for key in graph_keys(adata, neighbors_key)}
        counts = counts_of(adata, layer)
        coordinates = {spatial_key: array_of(adata.obsm[spatial_key])}
        light[name] = ad.AnnData(counts, obs=obs, var=adata.var, obsm=coordinates, obsp=obsp)
    names = Counter(cell for adata in named.values() for cell in adata.obs_names)
    between = "-" if len(names) < sum(names.values()) else None
    both = ad.concat(light, join="outer", merge="unique", fill_value=0, pairwise=True, index_unique=between)
    both = both[:, sorted(both.var_names)].copy()
    for key in (library_key, technology_key):
        both.obs[key] = both.obs[key].astype("category")
    for key in both.obs:
        if _is_mixed(both.obs[key]):
            both.obs[key] = pd.Categorical(text_of(both.obs[key]))
    both.varm[panel_key] = _panels(light, named, technologies, panel_key, both.var_names)
    if graph is not None:
        both.uns[f"{neighbors_key}_neighbors"] = graph
    notes = joined_notes([notes_of(adata) for adata in named.values()], [adata.obs for adata in named.values()])
    if notes:
        both.uns[_keys.UNS] = notes
    return both


def _is_mixed(column: pd.Series) -> bool:
    """Return whether a column holds text beside numbers, as where one object has names of types and another codes."""
    values = column.cat.categories if isinstance(column.dtype, pd.CategoricalDtype) else column
    return values.dtype == object and len({isinstance(value, str) for value in pd.unique(values.dropna())}) > 1


def _check(name: str, adata: AnnData, layer: str | None, spatial_key: str) -> None:
    require_anndata(adata, name)
    if adata.isbacked:
        raise ValueError(f"{name!r} is backed by a file. Read it: adata = adata.to_memory().")
    counts_of(adata, layer, name)
    entry_of(adata, "obsm", spatial_key, "Put cell coordinates there, or name their key with spatial_key=...", name)
    if not adata.var_names.is_unique:
        twice = adata.var_names[adata.var_names.duplicated()][0]
        raise ValueError(f"{name!r} has the gene {twice!r} twice. Call adata.var_names_make_unique().")


def _check_shared(genes: Mapping[str, pd.Index]) -> None:
    """Raise where an object shares no gene with any other; warn of names that differ in case only."""
    times = Counter(gene for names in genes.values() for gene in names)
    for name, own in genes.items():
        if len(genes) > 1 and not any(times[gene] > 1 for gene in own):
            other = next(other for other in genes if other != name)
            shown = [", ".join(map(repr, names[:3])) for names in (own, genes[other])]
            raise ValueError(
                f"{name!r} ({shown[0]}, ...) shares no gene with {other!r} ({shown[1]}, ...) or any other object. "
                + likely_cause(list(own), list(genes[other]), repr(name), repr(other))
            )
    before: dict[str, tuple[str, str]] = {}
    for name, own in genes.items():
        there = set(own)
        pairs = [(gene, *before[gene.casefold()]) for gene in own if gene.casefold() in before]
        apart = [(gene, known, other) for gene, known, other in pairs if gene != known and known not in there]
        if apart:
            gene, known, other = apart[0]
            warn(
                f"{len(apart):,} genes of {name!r} differ from those of the objects before it in case only, such as "
                f"{gene!r} from {known!r} of {other!r}, and count as genes of their own. If they are the same genes, "
                "rename adata.var_names in one of them; where the species differ, map orthologs."
            )
        for gene in own:
            before.setdefault(gene.casefold(), (gene, name))


def _graph_params(named: Mapping[str, AnnData], neighbors_key: str) -> dict[str, object] | None:
    """Return what ``uns`` is to say of the graph, ``None`` where there is none; what the objects do not share is lost.

    Raises
    ------
    ValueError
        If only some objects have a graph, or they have different matrices, or some are cosine-transformed.
    """
    keys = {name: graph_keys(adata, neighbors_key) for name, adata in named.items()}
    with_graph = [name for name in keys if keys[name]]
    if not with_graph:
        return None
    without = [name for name in keys if keys[name] != keys[with_graph[0]]]
    if without:
        raise ValueError(
            f"{with_graph[0]!r} has a spatial graph ({', '.join(keys[with_graph[0]])}), {without[0]!r} has "
            f"{', '.join(keys[without[0]]) or 'none'}. Compute it for each: "
            f"{graph_call(library_key=..., key_added=neighbors_key)}, or for the result, after removing it from all."
        )
    stored = [adata.uns.get(f"{neighbors_key}_neighbors", {}) for adata in named.values()]
    params = [dict(entry.get("params", {})) for entry in stored]
    transforms = {str(each.get("transform")) for each in params}
    if len(transforms) > 1 and "cosine" in transforms:
        raise ValueError("Some spatial graphs are cosine-transformed and others are not; compute all in one way.")
    shared = {key: value for key, value in params[0].items() if len({repr(each.get(key)) for each in params}) == 1}
    return {**{f"{key.removeprefix(f'{neighbors_key}_')}_key": key for key in keys[with_graph[0]]}, "params": shared}


def _labels(adata: AnnData, key: str, default: str) -> np.ndarray:
    """Return each cell's name in ``obs[key]``, ``default`` where there is no such column."""
    if key not in adata.obs:
        return np.full(adata.n_obs, default, dtype=object)
    return names_of(adata, key, default)


def _sections(named: Mapping[str, AnnData], key: str) -> dict[str, np.ndarray]:
    """Return each cell's section, such that no two objects have one in common."""
    labels = {name: _labels(adata, key, name) for name, adata in named.items()}
    times = Counter(section for each in labels.values() for section in set(each))
    return {
        name: np.array([f"{name}-{s}" if times[s] > 1 else s for s in each], dtype=object)
        for name, each in labels.items()
    }


def _panels(
    light: Mapping[str, AnnData],
    named: Mapping[str, AnnData],
    technologies: Mapping[str, np.ndarray],
    panel_key: str,
    genes: pd.Index,
) -> pd.DataFrame:
    """Return the table of panels, genes × technologies, bool."""
    measured: dict[str, np.ndarray] = {}
    for name, adata in named.items():
        for technology in np.unique(technologies[name].astype(str)):
            own = genes.isin(_measured(adata, light[name].X, technologies[name], technology, panel_key))
            measured[technology] = measured.get(technology, own) & own
    return pd.DataFrame({_keys.as_key(name): measured[name] for name in sorted(measured)}, index=genes)


def _measured(
    adata: AnnData, counts: CountMatrix, technologies: np.ndarray, technology: str, panel_key: str
) -> pd.Index:
    """Return the names of the genes that a technology measured in one object."""
    table = adata.varm.get(panel_key)
    column = _keys.key_in(getattr(table, "columns", ()), technology)
    if column is not None:
        return adata.var_names[flags_of(table[column])]
    cells = technologies == technology
    if cells.all():
        return adata.var_names
    found = np.zeros(adata.n_vars, dtype=bool)
    for start, rows in iter_rows(counts):
        found[rows[cells[start : start + rows.shape[0]]].indices] = True
    return adata.var_names[found]
