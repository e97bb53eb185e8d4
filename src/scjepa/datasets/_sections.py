"""Sections from files, by name and of SpatialData objects, and several of them as one; gene sets."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

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
from scjepa._core.instruments import how_to_read
from scjepa._core.keys import CELL_TYPE, REGION, SECTION, TECHNOLOGY
from scjepa._core.meaning import did_you_mean
from scjepa._core.options import unknown_name
from scjepa._core.renamed import renamed
from scjepa._core.settings import settings
from scjepa._core.squidpy import graph_call, squidpy
from scjepa._core.warn import warn
from scjepa.tokens.vocabulary import likely_cause

if TYPE_CHECKING:
    from spatialdata import SpatialData
    from spatialdata.models import SpatialElement


_GLOBAL = "global"


_SQUIDPY = "squidpy:"
_SUFFIX = ".h5ad"

_MOST = 20
"""Files that an error lists, at most."""


PUBLIC: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "four_i": ("HeLa cells", "4i"),
        "imc": ("human breast cancer", "imaging mass cytometry"),
        "merfish": ("mouse preoptic hypothalamus", "MERFISH"),
        "mibitof": ("human colorectal carcinoma", "MIBI-TOF"),
        "sc_mouse_cortex": ("mouse cortex", "dissociated"),
        "seqfish": ("mouse embryo", "seqFISH"),
        "slideseqv2": ("mouse hippocampus", "Slide-seqV2"),
        "visium_fluo_adata": ("mouse brain", "Visium"),
        "visium_hne_adata": ("mouse brain", "Visium"),
    }
)
"""Public data sets of ``squidpy.datasets`` that come as AnnData, their tissue and technology; many hold
normalized values, not counts."""

_SDMBENCH = "of SDMBench, https://figshare.com/projects/SDMBench/163942"
_EMBRYO = (
    "counts.Rds and metadata.Rds of Lohoff et al. 2022, https://content.cruk.cam.ac.uk/jmlab/SpatialMouseAtlas2020/; "
    "19,416 cells of the same study come with squidpy, load('squidpy:seqfish')"
)
SOURCES: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "starmap_visual_cortex": (
            "1,207 cells x 1,020 genes; layers in obs['region'], obs['cell_type']",
            f"Wang et al. 2018; STARmap_20180505_BY3_1k.h5ad, with layers in obs['label'], {_SDMBENCH}",
        ),
        "osmfish_somatosensory_cortex": (
            "4,839 cells x 33 genes; layers in obs['region']",
            f"Codeluppi et al. 2018; osmfish.h5ad, with layers in obs['Region'], {_SDMBENCH}",
        ),
        "seqfish_mouse_embryo2": ("14,185 cells x 351 genes, z-slices in obs['section']; obs['cell_type']", _EMBRYO),
        "seqfish_mouse_embryo1_3_crops": ("7,648 cells x 351 genes, four crops in obs['section']", _EMBRYO),
        "merfish_mouse_motor_cortex_4slices_unlabelled": (
            "7,924 cells x 241 genes, four slices in obs['section']",
            "Zhang et al. 2021, Brain Image Library, https://doi.org/10.35077/g.21",
        ),
        "starmap_plus_well11_labels_no_counts": (
            "a table of 43,341 cells: X, Y, Tissue_Symbol, Maintype_Symbol",
            "Shi et al. 2023, https://zenodo.org/records/8327576",
        ),
        "xenium_breast_51k_unlabelled": (
            "51,587 cells x 313 genes, five tiles in obs['section']",
            "Janesick et al. 2023; 10x Genomics (CC BY 4.0), "
            "https://www.10xgenomics.com/products/xenium-in-situ/preview-dataset-human-breast",
        ),
        "pbmc3k": (
            "2,638 cells x 13,714 genes; obs['cell_type']",
            "10x Genomics; counts by scanpy.datasets.pbmc3k(), labels by scanpy.datasets.pbmc3k_processed()",
        ),
        "pbmc4k_half": (
            "2,170 cells x 15,195 genes; obs['cell_type']",
            "10x Genomics; counts by scvi.data.dataset_10x('pbmc4k'), labels by scvi.data.pbmc_dataset()",
        ),
    }
)
"""The files that tutorials read by name: what each holds, and where its data are public. They are made from these
sources, and no address has them as they are."""


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


# -- reading -----------------------------------------------------------------------------------------------------------


def load(name: str, path: str | os.PathLike[str] | None = None, *, sha256: str | None = None) -> AnnData:
    """Read a data set by name or address.

    Parameters
    ----------
    name
        Name of an h5ad file without its ending, such as ``"starmap_visual_cortex"``; or ``"squidpy:"`` and a function
        of ``squidpy.datasets`` that returns AnnData, such as ``"squidpy:imc"``; or the address of an h5ad file,
        ``"https://..."``. What comes from the network is downloaded once.
    path
        The file, or a folder to look in, subfolders included. Default: ``scjepa.settings.data_dir`` and the
        environment variable ``SCJEPA_DATA``. Of a download: the file to keep it in. Default: a file in the user's
        cache, ``pooch.os_cache("scjepa")``.
    sha256
        Checksum of the file at an address: another file is not kept. squidpy has those of its own data sets.

    Returns
    -------
    AnnData
        As in the file; ``section``, ``technology``, ``region`` and ``cell_type`` in ``obs`` are made categorical
        where they are there.

    Raises
    ------
    FileNotFoundError
        If no file has that name, with the folders that were searched and what they hold; for the data sets of the
        tutorials also with what the file holds and where its data are public.
    ConnectionError
        If a download fails, or ends early.
    ValueError
        If several files have that name, squidpy has no such data set, or a download is not the file of the checksum.

    Examples
    --------
    >>> adata = scjepa.datasets.load("starmap_visual_cortex", "data/")  # doctest: +SKIP
    """
    if name.startswith(_SQUIDPY):
        return _categorical(_of_squidpy(name.removeprefix(_SQUIDPY), path))
    if name.startswith(("http://", "https://")):
        return _categorical(ad.read_h5ad(_download(name, path, sha256)))
    if sha256 is not None:
        raise ValueError(f"sha256 is of a download, and {name!r} is the name of a file. Leave it out.")
    if path is not None and Path(path).is_file():
        return _categorical(ad.read_h5ad(path))
    stem = name.removesuffix(_SUFFIX)
    folders = _folders(path)
    files = _find(folders)
    matches = [file for file in files if file.stem == stem]
    if not matches:
        raise FileNotFoundError(_not_found(stem, folders, files))
    if len(matches) > 1:
        places = ", ".join(map(str, matches))
        raise ValueError(f"Several files are named {stem}{_SUFFIX}: {places}. Give one of them as path.")
    return _categorical(ad.read_h5ad(matches[0]))


def _of_squidpy(public: str, path: str | os.PathLike[str] | None) -> AnnData:
    """Return a data set of squidpy, which checks its checksum, from the cache where it is there."""
    import pooch

    if public not in PUBLIC:
        raise ValueError(unknown_name("data set of squidpy", public, PUBLIC) + " See scjepa.datasets.available().")
    file = Path(path) if path is not None else Path(pooch.os_cache("scjepa")) / f"{public}{_SUFFIX}"
    try:
        return getattr(squidpy().datasets, public)(path=file)
    except (OSError, ValueError, RuntimeError, ExceptionGroup) as error:
        raise _failed(_SQUIDPY + public, error) from error


def _download(url: str, path: str | os.PathLike[str] | None, sha256: str | None) -> str:
    """Return the file at an address, downloaded where it is not there yet or is not the file of the checksum."""
    import pooch

    folder, file = (Path(path).parent, Path(path).name) if path is not None else (pooch.os_cache("scjepa"), None)
    try:
        return pooch.retrieve(url, sha256 and f"sha256:{sha256}", fname=file, path=folder, progressbar=True)
    except (OSError, ValueError) as error:
        raise _failed(url, error) from error


def _failed(name: str, error: Exception) -> Exception:
    """Return the error for a download that failed, with what to do then."""
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    if "known hash" in str(error):
        return ValueError(
            f"The download of {name} is not the file that was expected, and was not kept: its checksum differs. Call "
            "again; if it differs again, the file has changed at its address, or something on the way changes it."
        )
    return ConnectionError(
        f"{name} could not be downloaded ({type(error).__name__}: {str(error)[:120]}). With a network, call again; "
        f"without one, copy the file here and name it: scjepa.datasets.load({name!r}, path='FILE.h5ad')."
    )


def available(path: str | os.PathLike[str] | None = None) -> pd.DataFrame:
    """Return what :func:`load` can read now: the h5ad files that are there, then the public sets of squidpy.

    Parameters
    ----------
    path
        Folder to look in, subfolders included. Default as in :func:`load`.

    Returns
    -------
    DataFrame
        Index ``name``; columns ``tissue``, ``technology`` (empty for files) and ``file`` (empty for data
        that squidpy downloads).
    """
    rows = [(file.stem, "", "", str(file)) for file in _find(_folders(path))]
    rows += [(_SQUIDPY + name, *about, "") for name, about in PUBLIC.items()]
    return pd.DataFrame(rows, columns=["name", "tissue", "technology", "file"]).set_index("name")


def _folders(path: str | os.PathLike[str] | None) -> list[Path]:
    """Return the folders to search, without repeats: ``path``, or the setting and the environment variable."""
    given = [path] if path is not None else [settings.data_dir, os.environ.get("SCJEPA_DATA")]
    return list(dict.fromkeys(Path(folder).expanduser() for folder in given if folder))


def _find(folders: list[Path]) -> list[Path]:
    return sorted({file.resolve() for folder in folders for file in folder.rglob(f"*{_SUFFIX}")})


def _not_found(name: str, folders: list[Path], files: list[Path]) -> str:
    wanted = f"{name}{_SUFFIX}"
    if name in PUBLIC:
        return f"{wanted} was not found. squidpy has such a set: scjepa.datasets.load({_SQUIDPY + name!r})"
    holds, source = SOURCES.get(name, ("", ""))
    public = f" It is made of public data: {source}. Expected: {holds}, counts in X." if source else ""
    if not folders:
        return (
            f"{wanted} was not looked for: no folder is set.{public} Call "
            f"scjepa.datasets.load({name!r}, path='folder'), or set scjepa.settings.data_dir or the environment "
            "variable SCJEPA_DATA. Without data: scjepa.datasets.simulated_tissue()."
        )
    places = ", ".join(f"{folder}{'' if folder.is_dir() else ' (no such folder)'}" for folder in folders)
    names = [file.stem for file in files]
    found = ", ".join(names[:_MOST]) or "no h5ad file"
    found += f" and {len(names) - _MOST} more" if len(names) > _MOST else ""
    return (
        f"{wanted} was not found in {places}.{did_you_mean(name, names)} Found there: {found}.{public} Call "
        f"scjepa.datasets.load({name!r}, path=...) with the folder or the file; scjepa.datasets.available(path) lists "
        "what a folder holds."
    )


def _categorical(adata: AnnData) -> AnnData:
    for key in (SECTION, TECHNOLOGY, REGION, CELL_TYPE):
        if key in adata.obs and not isinstance(adata.obs[key].dtype, pd.CategoricalDtype):
            adata.obs[key] = adata.obs[key].astype("category")
    return adata


def read_gmt(path: str | os.PathLike[str]) -> dict[str, tuple[str, ...]]:
    """Read gene sets from a GMT file: a line for each, its name, a description, and its genes, separated by tabs.

    Parameters
    ----------
    path
        The file, such as those of MSigDB.

    Returns
    -------
    dict
        Genes of each set by the set's name, in the order of the file; a gene that a line has twice is there once.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If a line has no gene, a name occurs twice, or there is no line.
    """
    sets: dict[str, tuple[str, ...]] = {}
    for number, line in enumerate(Path(path).read_text().splitlines(), start=1):
        if not line.strip():
            continue
        name, *rest = (part.strip() for part in line.split("\t"))
        genes = tuple(dict.fromkeys(gene for gene in rest[1:] if gene))
        if not genes:
            raise ValueError(
                f"Line {number} of {path} has no gene: a GMT line is a name, a description and genes, separated by "
                f"tabs; found {line[:60]!r}."
            )
        if name in sets:
            raise ValueError(f"{path} has the gene set {name!r} twice, the second time in line {number}.")
        sets[name] = genes
    if not sets:
        raise ValueError(f"{path} holds no gene set.")
    return sets


def table_of(
    data: AnnData | SpatialData,
    table_name: str | None = None,
    *,
    coordinate_system: str | Mapping[str, str] | None = None,
    spatial_key: str = _keys.SPATIAL,
) -> AnnData:
    """Return the cells of a SpatialData object as AnnData, with their coordinates in ``obsm``.

    It is the table itself and no copy: an embedding or niches written to it are in the SpatialData object too.

    Parameters
    ----------
    data
        A :class:`spatialdata.SpatialData` object. An AnnData object is returned as it is, with no other option.
    table_name
        Table to take, a name in ``sdata.tables``. May be left out where there is one table.
    coordinate_system
        Coordinate system in which centroids are computed, or one for each annotated region by its name. Default:
        ``"global"`` where an element has that, else its only one. Coordinates that the table has already must be those
        of the system that is named.
    spatial_key
        ``obsm`` key of the coordinates.

    Returns
    -------
    AnnData
        The table. Where it has no ``obsm[spatial_key]``, the centroids of the shapes, labels or points that it
        annotates are written there, ``(n_cells, 2 or 3)`` float64 in the unit of the coordinate system. Nothing else
        is written.

    Raises
    ------
    TypeError
        If ``data`` is neither SpatialData nor AnnData.
    KeyError
        If there is no table of that name, or an annotated element does not exist.
    ValueError
        If the table cannot be told from several, or there is none; coordinates are needed and cannot be computed (the
        table annotates nothing, an element lacks a cell, or does not have the coordinate system); or a coordinate
        system is named and the table has other coordinates.

    Examples
    --------
    >>> adata = scjepa.table_of(sdata)  # doctest: +SKIP
    """
    if isinstance(data, AnnData):
        for name, value in {"table_name": table_name, "coordinate_system": coordinate_system}.items():
            if value is not None:
                raise ValueError(f"{name}={value!r} is of SpatialData, and this is AnnData. Leave it out.")
        return data
    spatialdata = sys.modules.get("spatialdata")  # whoever has such an object has imported it
    if spatialdata is None or not isinstance(data, spatialdata.SpatialData):
        then = how_to_read(data) if isinstance(data, str | os.PathLike) else "Read one: spatialdata.read_zarr(path)."
        raise TypeError(f"Expected a SpatialData or AnnData object, found {type(data).__name__}. {then}")
    table = _table(data, table_name)
    if spatial_key not in table.obsm:
        table.obsm[spatial_key] = _centroids(data, table, coordinate_system, spatial_key)
    elif coordinate_system is not None:
        _check_system(data, table, coordinate_system, spatial_key)
    return table


def _check_system(
    sdata: SpatialData, table: AnnData, coordinate_system: str | Mapping[str, str], spatial_key: str
) -> None:
    """Raise where the coordinates that are there are not those of the coordinate system that is asked for."""
    there = np.asarray(table.obsm[spatial_key], dtype=np.float64)
    wanted = _centroids(sdata, table, coordinate_system, spatial_key)
    if there.shape != wanted.shape or not np.allclose(there, wanted, rtol=1e-5, atol=1e-6 * np.ptp(wanted)):
        raise ValueError(
            f"The table has coordinates in obsm[{spatial_key!r}] that are not those of "
            f"coordinate_system={coordinate_system!r}: its first cell lies at {there[0].tolist()}, and there at "
            f"{wanted[0].tolist()}. Take those of that system under another key, table_of(sdata, "
            f"coordinate_system=..., spatial_key='{spatial_key}_computed'), or remove what is there first: "
            f"del sdata.tables[...].obsm[{spatial_key!r}]."
        )


def _table(sdata: SpatialData, name: str | None) -> AnnData:
    names = list(sdata.tables)
    if name is not None:
        if name not in names:
            raise KeyError(unknown_name("table of the SpatialData object", name, names))
        return sdata.tables[name]
    if not names:
        raise ValueError("The SpatialData object has no table: there are no counts to work on.")
    if len(names) > 1:
        raise ValueError(
            f"The SpatialData object has {len(names)} tables, {', '.join(names)}. Name one, table_name=..."
        )
    return sdata.tables[names[0]]


def _centroids(
    sdata: SpatialData, table: AnnData, coordinate_system: str | Mapping[str, str] | None, spatial_key: str
) -> np.ndarray:
    """Return the centroid of what each row of the table annotates, matched by instance and not by order."""
    attributes = table.uns.get("spatialdata_attrs", {})
    region_key, instance_key = attributes.get("region_key"), attributes.get("instance_key")
    if region_key is None or instance_key is None:
        raise ValueError(
            "The table annotates no element, so no coordinates of its cells can be computed. "
            f"Put them there, table.obsm[{spatial_key!r}] = ..., or annotate shapes or labels: "
            "sdata.set_table_annotates_spatialelement(...). Then scjepa.table_of(sdata) has them."
        )
    regions = table.obs[region_key].astype(str).to_numpy()
    for name in coordinate_system if isinstance(coordinate_system, Mapping) else ():
        if name not in regions:
            raise KeyError(unknown_name("region in coordinate_system", name, set(regions)))
    instances = table.obs[instance_key].to_numpy()
    found: np.ndarray | None = None
    for region in sorted(set(regions)):
        if region not in sdata:
            raise KeyError(f"The table annotates {region!r}, which the SpatialData object does not have.")
        wanted = coordinate_system.get(region) if isinstance(coordinate_system, Mapping) else coordinate_system
        centroids = _centroids_of(sdata[region], region, wanted)
        rows = np.flatnonzero(regions == region)
        position = centroids.index.get_indexer(instances[rows])
        if (position < 0).any():
            raise ValueError(
                f"{(position < 0).sum()} cells of the table are not in {region!r}, first the {instance_key} "
                f"{instances[rows[(position < 0).argmax()]]!r}. Keep those that are: "
                "spatialdata.match_table_to_element(...)."
            )
        values = centroids.to_numpy(dtype=np.float64)[position]
        if found is None:
            found = np.empty((table.n_obs, values.shape[1]))
        if values.shape[1] != found.shape[1]:
            raise ValueError("Some of the annotated elements have two dimensions and some three.")
        found[rows] = values
    if found is None:
        raise ValueError("The table has no cells.")
    return found


def _centroids_of(element: SpatialElement, region: str, coordinate_system: str | None) -> pd.DataFrame:
    """Return a data frame of centroids by instance."""
    from spatialdata import get_centroids
    from spatialdata.transformations import get_transformation

    systems = list(get_transformation(element, get_all=True))
    if coordinate_system is None:
        if _GLOBAL not in systems and len(systems) > 1:
            raise ValueError(f"{region!r} has coordinate systems {', '.join(systems)}. Name one: coordinate_system=...")
        coordinate_system = _GLOBAL if _GLOBAL in systems else systems[0]
    if coordinate_system not in systems:
        raise ValueError(unknown_name(f"coordinate system of {region!r}", coordinate_system, systems))
    return get_centroids(element, coordinate_system=coordinate_system).compute()
