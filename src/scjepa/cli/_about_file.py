"""What a file of cells is, in words, and what to mind before training on it."""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata.io import read_elem
from scipy.spatial import cKDTree

from scjepa._core import keys as _keys
from scjepa._core.counts import about_nan
from scjepa._core.features import about_features as told_of_no_genes
from scjepa._core.features import types_of
from scjepa.cli._cells import Cells, Where, add_graph, read_cells, refuse_small_sections
from scjepa.cli._counts import where_counts_are
from scjepa.cli._files import DataFile, data_files
from scjepa.cli._join import join, keys_for, panels_of
from scjepa.cli._report import lines
from scjepa.stjepa.config import PRESETS
from scjepa.tokens.choice import choose, count_spread, describe_tokens, same_by_count
from scjepa.tokens.counts import iter_rows, keep_entries, totals_of
from scjepa.tokens.memory import readable_bytes
from scjepa.tokens.neighborhoods import build_neighbor_table

_LARGEST_LOG = 20.0
"""Data without whole numbers whose largest value is below this looks log-transformed."""


def about_file(path: Path, options: argparse.Namespace) -> str:
    """Return a report of a file of cells."""
    (file,) = data_files([path], options.table)
    facts, mind = _contents(file)
    where = Where.of(options)
    cells: Cells | None = None
    try:
        cells = read_cells(file, where, use_graph=not options.rebuild_graph)
    except ValueError as error:
        mind.append(str(error))
    if cells is None and (options.model or options.preset):
        raise ValueError(mind[-1])
    if cells is not None:
        facts |= {
            "counts": _counts(cells, where.layer, mind),
            "tokens": _tokens(cells, mind),
            "coordinates": _coordinates(cells, where, mind),
        }
        facts |= {
            "sections": _names(cells.sections),
            "technologies": _technologies(cells, where),
            "graph": _graph(cells, _n_neighbors(options), mind),
        }
        if options.model:
            facts |= _against_model(file, options)
        elif options.preset:
            facts["estimate"] = _estimate(cells, where, options)
    facts["mind"] = "\n".join(mind)
    size = path.stat().st_size if path.is_file() else sum(f.stat().st_size for f in path.rglob("*") if f.is_file())
    table = f", table {file.table!r}" if file.table else ""
    return lines(f"{path}: {file.kind}{table}, {readable_bytes(size)}", facts)


def _contents(file: DataFile) -> tuple[dict[str, str], list[str]]:
    """Return what can be told without reading counts, and what is wrong with it."""
    mind: list[str] = []
    with file.opened() as group:
        obs, var = read_elem(group["obs"]), read_elem(group["var"])
        layers = sorted(group["layers"]) if "layers" in group else []
        embeddings = {key: group["obsm"][key] for key in sorted(group["obsm"])} if "obsm" in group else {}
        shapes: dict[str, tuple[int, ...]] = {key: getattr(value, "shape", ()) for key, value in embeddings.items()}
        notes = read_elem(group["uns"][_keys.UNS]) if "uns" in group and _keys.UNS in group["uns"] else {}
    if not var.index.is_unique:
        twice = var.index[var.index.duplicated()][0]
        mind.append(f"Gene names are not unique, such as {twice!r}: adata.var_names_make_unique().")
    strangers = told_of_no_genes(var.index, types_of(var))
    if strangers:
        mind.append(strangers)
    niches = [key for key, note in notes.items() if note.get("slot") == "obs" and key in obs]
    facts = {
        "cells": f"{len(obs):,}",
        "genes": f"{len(var):,}, such as {', '.join(map(str, var.index[:5]))}",
        "layers": ", ".join(layers),
        "obs": ", ".join(map(str, obs.columns)),
        "obsm": ", ".join(f"{key} ({shape[1]})" if len(shape) == 2 else key for key, shape in shapes.items()),
        "niches": ", ".join(f"obs[{key!r}]: {obs[key].nunique()}" for key in niches),
    }
    return facts, mind


def _counts(cells: Cells, layer: str | None, mind: list[str]) -> str:
    """Tell of the counts: whole numbers or not, depth, cells without any."""
    totals, genes, largest, whole, lowest = [], [], 0.0, True, 0.0
    unknown = np.zeros(len(cells.genes), dtype=bool)  # genes with NaN, which are told of apart
    for _, rows in iter_rows(cells.counts):
        known = ~np.isnan(rows.data)
        unknown[rows.indices[~known]] = True
        rows = rows if known.all() else keep_entries(rows, known)
        totals.append(totals_of(rows))
        genes.append(np.diff(rows.indptr))
        values = rows.data
        if len(values):
            largest, lowest = max(largest, float(values.max())), min(lowest, float(values.min()))
            whole = whole and bool((values == np.rint(values)).all())
    total, gene = np.concatenate(totals), np.concatenate(genes)
    empty = int((gene == 0).sum())
    if empty:
        mind.append(
            f"{empty:,} cells have no counts and get a zero embedding: sc.pp.filter_cells(adata, min_counts=1)."
        )
    if unknown.any():
        mind.append(f"{about_nan(int(unknown.sum()), len(unknown))} scjepa fit, given several files, joins them so.")
    if lowest < 0 or not np.isfinite(largest):
        mind.append(f"Counts are negative or not finite. {where_counts_are(cells.file, layer)}")
    elif not whole:
        log = " and look log-transformed" if largest < _LARGEST_LOG else ""
        mind.append(f"The values are no whole numbers{log}. {where_counts_are(cells.file, layer)}")
    kind = "whole numbers" if whole else "no whole numbers"
    return f"{kind} up to {largest:,.4g}; a cell has {np.median(total):,.4g} in {np.median(gene):,.0f} genes (medians)"


def _tokens(cells: Cells, mind: list[str]) -> str:
    """Tell which genes of a cell the presets but the paper's make tokens of, and why."""
    try:
        spread = count_spread(cells.counts)
    except (TypeError, ValueError):  # the counts' own line tells
        return ""
    sentence = same_by_count(spread)
    if sentence:
        mind.append(sentence)
    chosen = choose(PRESETS["base"].tokens, cells.genes, lambda without: count_spread(cells.counts, without))
    return f"{describe_tokens(chosen, cells.genes)} (presets demo, base and technologies)\nby count, {spread}"


def _coordinates(cells: Cells, where: Where, mind: list[str]) -> str:
    place = cells.coordinates
    sections = np.zeros(len(place)) if cells.sections is None else cells.sections.to_numpy()
    parts = [place[sections == name] for name in pd.unique(sections)]
    distances = np.concatenate([cKDTree(part).query(part, k=2)[0][:, 1] for part in parts])  # infinite for one cell
    same = int((distances == 0).sum())
    if same:
        mind.append(f"{same:,} cells lie exactly on another.")
    return (
        f"obsm[{where.spatial_key!r}], {place.shape[1]} dimensions; the nearest cell is {np.median(distances):.4g} "
        "away (median)"
    )


def _names(names: pd.Series | None) -> str:
    if names is None:
        return "one"
    sizes = names.value_counts()
    shown = ", ".join(f"{name} ({size:,})" for name, size in sizes.iloc[:6].items())
    return f"obs[{names.name!r}], {len(sizes)}: {shown}{', ...' if len(sizes) > 6 else ''}"


def _technologies(cells: Cells, where: Where) -> str:
    """Tell of technologies, and where there are several, of the genes that each measured."""
    text = _names(cells.technologies)
    if cells.technologies is None or cells.technologies.nunique() < 2 or not cells.genes.is_unique:
        return text
    panels = panels_of(cells, where)
    names = sorted(set(cells.technologies))
    each = ", ".join(f"{name} {panels[_keys.as_key(name)].sum():,} genes" for name in names)
    return f"{text}\n{each}; {int(panels.all(axis=1).sum()):,} in all"


def _n_neighbors(options: argparse.Namespace) -> int:
    """Return how many neighbors the model looks at that is named, or the one that fit would train."""
    if options.model:
        from scjepa.cli._models import SavedModel

        return SavedModel(options.model).n_neighbors
    return PRESETS[options.preset or "base"].tokens.n_neighbors


def _graph(cells: Cells, n_neighbors: int, mind: list[str]) -> str:
    """Tell of the spatial graph, and what training would say of it."""
    if not cells.edges:
        try:
            refuse_small_sections(cells, n_neighbors)
        except ValueError as error:
            mind.append(str(error))
        return "none: scjepa fit builds one"
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        try:
            build_neighbor_table(
                cells.edges.get("connectivities"),
                cells.edges.get("distances"),
                cells.coordinates,
                n_neighbors,
                sections=None if cells.sections is None else cells.sections.to_numpy(),
                two_hop=cells.graph_parameters.get("params", {}).get("transform") == "cosine",
                cell_names=cells.names,
            )
            refused = []
        except ValueError as error:
            refused = [str(error)]
    found = refused + [str(one.message) for one in told if one.category is UserWarning]
    mind += [f"{text} Or: scjepa fit --rebuild-graph." for text in found]
    degrees = np.diff(next(iter(cells.edges.values())).tocsr().indptr)
    spread = f"{degrees.min()}" if degrees.min() == degrees.max() else f"{degrees.min()} to {degrees.max()}"
    return f"{spread} neighbors a cell"


def _against_model(file: DataFile, options: argparse.Namespace) -> dict[str, str]:
    """Tell how much of the file a model can read, and what embedding it would take."""
    from scjepa.cli._models import SavedModel

    saved = SavedModel(options.model)
    adata = saved.cells_of(file, options)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Genes the model does not know")  # the report tells
            model = saved.load(adata, options.accelerator)
        return {"coverage": _without_title(model.coverage()), "estimate": str(model.estimate())}
    except ValueError as error:
        return {"coverage": str(error)}


def _without_title(report: Any) -> str:
    told = [line.strip() for line in str(report).splitlines()[1:]]
    return "\n".join(line for line in told if "model.coverage" not in line)  # no advice on Python here


def _estimate(cells: Cells, where: Where, options: argparse.Namespace) -> str:
    """Tell what training would take."""
    from scjepa.stjepa.model import STJEPA

    add_graph(cells, PRESETS[options.preset].tokens.n_neighbors)
    keys = keys_for([cells], where)
    adata = join([cells], keys)
    STJEPA.setup_anndata(adata, **keys.to_dict())
    model = STJEPA(adata, preset=options.preset)
    if options.accelerator not in ("auto", "cpu"):
        model.to_device(options.accelerator)
    return f"preset {options.preset!r}: {model.estimate()}"
