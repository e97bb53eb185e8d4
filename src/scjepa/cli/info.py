"""``scjepa info``: tell what a model or a file of cells is, and what a model would make of it.

Tell what is in a file of cells (genes, counts, coordinates, sections, graph, embeddings, niches) and what to watch
for before training on it; how the output of an instrument becomes such a file; or what a saved model is (genes,
technologies, size, training, diagnosis).
"""

from __future__ import annotations

import argparse
import warnings
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from scjepa._core import keys as _keys
from scjepa._core import stored
from scjepa._core.instruments import raw_output
from scjepa._core.stored import DataFile
from scjepa.cli import io
from scjepa.cli import options as shared

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

    from scjepa.cli.cells import Names, SavedModel

_LARGEST_LOG = 20.0
"""Data without whole numbers whose largest value is below this looks log-transformed."""

_WHOLE = (
    "a whole transcriptome: by count a few genes would be the tokens of all cells. The presets above see that and\n"
    "rank genes otherwise; with those of the paper: --set tokens.ranks=auto --set tokens.left_out=auto"
)
"""What it means that genes are not ranked by count."""

_SHOWN = 6
"""Names of sections or technologies that are listed at most."""


@dataclass(frozen=True)
class What:
    """What to tell of.

    Parameters
    ----------
    paths
        Files of cells, saved models and names of checkpoints.
    model
        Of files: how well a saved model or checkpoint covers their genes, and what embedding them would take; or
        stjepa or celljepa, for --preset.
    preset
        Of files: what training that preset on them would take in memory and time.
    """

    paths: Annotated[list[Path], "PATH"]
    model: shared.Saved | None = None
    preset: str | None = field(default=None, metadata={"choices": shared.ALL_PRESETS})


def run(options: argparse.Namespace) -> None:
    """Print a report of each path on stdout."""
    if options.preset and options.model not in (None, *shared.KINDS):
        raise shared.UsageError(f"--preset goes with --model {' or '.join(shared.KINDS)}, not with a saved model.")
    for number, path in enumerate(options.paths):
        if number:
            print()
        print(_report(path, options), flush=True)


def _report(path: Path, options: argparse.Namespace) -> str:
    if not path.exists() and path.suffix in stored.SUFFIXES:
        raise FileNotFoundError(f"There is no file {path}.")
    if (path / "model.json").is_file() or not path.exists():  # or the name of a checkpoint
        if options.model or options.preset:
            raise shared.UsageError(f"{path} is a model; --model and --preset are for files of cells.")
        return _about_model(path)
    try:
        return _about_file(path, options)
    except stored.ForeignFileError:
        found = raw_output(path)
        if found is None or options.model or options.preset:
            raise
        return _lines(f"{path}: {found.what}, not a file of cells", {"mind": found.as_file})


def _lines(title: str, facts: dict[str, str]) -> str:
    """Return a report: a title, and a line for each fact that there is."""
    width = max(map(len, facts))
    indent = "\n" + " " * (width + 4)
    shown = [f"  {name:<{width}}  {text.replace(chr(10), indent)}" for name, text in facts.items() if text]
    return "\n".join([title, *shown])


def _size(path: Path) -> str:
    from scjepa.tokens.source import readable_bytes

    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return readable_bytes(sum(file.stat().st_size for file in files))


# -- a model -------------------------------------------------------------------------------------------------------


def _about_model(name: Path) -> str:
    """Return a report of the model in a folder, or of a checkpoint by name."""
    from scjepa.cli.cells import SavedModel
    from scjepa.models.store import read_model
    from scjepa.training import diagnose

    saved = SavedModel(name)
    facts, weights = read_model(saved.path, saved.kind.model)  # which checks that both are whole
    config = saved.kind.config.from_dict(facts["config"])
    card, genes = facts.get("card") or {}, facts["vocabulary"]
    counts = {name: tensor.numel() for name, tensor in weights.items() if tensor.is_floating_point()}
    in_encoder = sum(n for name, n in counts.items() if name.startswith("target."))
    keys = ", ".join(f"{name}={value!r}" for name, value in saved.keys.to_dict().items())
    history = {name: list(entry["value"]) for name, entry in facts["history"].items()}
    trained = f"{facts['n_steps']:,} steps" if facts["is_trained"] else "no: its weights are random"
    encoder, of = config.encoder, "neighborhoods" if saved.kind.model == "STJEPA" else "cells"
    found = {
        "what": str(card.get("description", "")),
        "trained": trained + (", fine-tuned" if facts.get("is_finetuned") else ""),
        "genes": f"{len(genes):,}, such as {', '.join(genes[:5])}",
        **_of_kind(facts, config),
        "reads": keys,
        "encoder": f"{encoder.n_layers} layers, width {encoder.width}, {encoder.n_heads} heads; "
        f"value {encoder.value!r}",
        "weights": f"{in_encoder:,} in the encoder, {sum(counts.values()):,} saved",
        "seed": str(facts["seed"]),
        "diagnosis": str(diagnose(history, encoder.width, of, config, objective=_objective_of(config))),
        "trained on": "\n".join(map(_row, card.get("data", ()))),
        "scores": "\n".join(map(_row, card.get("scores", ()))),
        "not for": str(card.get("limitations", "")),
        "license": str(card.get("license", "")),
    }
    return _lines(
        f"{name}: {facts['model']} model, {_size(saved.path)}, saved by scjepa {facts['scjepa_version']}", found
    )


def _objective_of(config: shared.Configuration) -> type:
    """Return the class of the model's objective, which says what its history means."""
    if isinstance(config, shared.CellJEPAConfig):
        from scjepa.celljepa import CellObjective, ModuleObjective

        return ModuleObjective if config.tokens.unit == "module" else CellObjective
    return config.objective.objective_class()


def _of_kind(facts: shared.Values, config: shared.Configuration) -> dict[str, str]:
    """Return what only models of one kind have: panels, labels, and what their tokens are."""
    from scjepa.tokens import Panels, Vocabulary
    from scjepa.tokens.choice import describe_tokens

    if isinstance(config, shared.STJEPAConfig):
        tokens = config.tokens
        vocabulary = Vocabulary(facts["vocabulary"])
        panels = Panels.from_dict(facts["panels"]).describe(vocabulary)
        return {
            "panels": panels.split("\n", 1)[1].replace("\n  ", "\n").strip(),
            "tokens": f"{tokens}, {describe_tokens(tokens, vocabulary.names)}",
            "objective": config.objective.name,
        }
    modules = f", in {len(facts['modules']['names'])} modules" if "modules" in facts else ""
    labels = facts.get("labels", {}).get("names", ())
    return {
        "tokens": f"up to {config.tokens.n_tokens} expressed genes of a cell, {config.tokens.n_bins} bins{modules}",
        "labels": f"{len(labels)}: {', '.join(labels[:_SHOWN])}{', ...' * (len(labels) > _SHOWN)}" if labels else "",
    }


def _row(row: shared.Values) -> str:
    """Return a row of a card's table in words."""
    return ", ".join(
        f"{name} {value:.3f}" if isinstance(value, float) else f"{name} {value}" for name, value in row.items()
    )


# -- a file --------------------------------------------------------------------------------------------------------


def _about_file(path: Path, options: argparse.Namespace) -> str:
    """Return a report of a file of cells."""
    from scjepa.cli.cells import Names, NoCoordinatesError, SavedModel, read_cells

    (file,) = io.data_files([path], options.table)
    saved = SavedModel(options.model) if options.model and options.model not in shared.KINDS else None
    kind = saved.kind if saved else shared.KINDS[options.model or "stjepa"]
    asked, where, mind = bool(options.model or options.preset), shared.Where.of(options), list[str]()
    facts = _contents(file, mind)
    names = replace(Names.of(shared.KINDS["stjepa"], where), layer="")  # the layer becomes X
    cells = None
    try:
        cells = read_cells(file, where, names, use_graph=not options.rebuild_graph)
    except NoCoordinatesError as error:
        if asked and kind.model == "STJEPA":
            raise
        mind.append(f"{error} Dissociated cells have none: scjepa fit --model celljepa.")
        names = Names.of(shared.KINDS["celljepa"], shared.Where())
        cells = read_cells(file, where, names)
    except ValueError as error:
        if asked:
            raise
        mind.append(str(error))
    if cells is not None:
        facts["counts"] = _counts(cells, file, where.layer, mind)
        if names.spatial_key:
            preset = options.preset if kind.model == "STJEPA" else None
            n_neighbors = (saved and saved.n_neighbors) or shared.PRESETS[preset or "base"].tokens.n_neighbors
            facts |= _of_tissue(cells, file, names, n_neighbors, mind)
        if saved:
            facts |= _against_model(saved, file, options)
        elif options.preset:
            facts["estimate"] = _estimate(kind, cells, file, names, options)
    facts["mind"] = "\n".join(mind)
    table = f", table {file.table!r}" if file.table else ""
    return _lines(f"{path}: {file.kind}{table}, {_size(path)}", facts)


def _contents(file: DataFile, mind: list[str]) -> dict[str, str]:
    """Return what can be told without reading counts; what is wrong with it is added to ``mind``."""
    from anndata.io import read_elem

    from scjepa._core.features import about_features, types_of

    with file.opened() as group:
        obs, var = read_elem(group["obs"]), read_elem(group["var"])
        layers = sorted(group["layers"]) if "layers" in group else []
        obsm = sorted(group["obsm"]) if "obsm" in group else []
        shapes: dict[str, tuple[int, ...]] = {key: getattr(group["obsm"][key], "shape", ()) for key in obsm}
        notes = read_elem(group["uns"][_keys.UNS]) if f"uns/{_keys.UNS}" in group else {}
    if not var.index.is_unique:
        twice = var.index[var.index.duplicated()][0]
        mind.append(f"Gene names are not unique, such as {twice!r}: adata.var_names_make_unique().")
    mind += [sentence for sentence in [about_features(var.index, types_of(var))] if sentence]
    niches = [key for key, note in notes.items() if "n_niches" in note and key in obs]
    return {
        "cells": f"{len(obs):,}",
        "genes": f"{len(var):,}, such as {', '.join(map(str, var.index[:5]))}",
        "layers": ", ".join(layers),
        "obs": ", ".join(map(str, obs.columns)),
        "obsm": ", ".join(f"{key} ({shape[1]})" if len(shape) == 2 else key for key, shape in shapes.items()),
        "niches": ", ".join(f"obs[{key!r}]: {obs[key].nunique()}" for key in niches),
    }


def _counts(cells: AnnData, file: DataFile, layer: str | None, mind: list[str]) -> str:
    """Tell of the counts: whole numbers or not, depth, cells without any."""
    import numpy as np

    from scjepa._core.counts import about_nan, iter_rows, keep_entries, totals_of
    from scjepa.cli.cells import where_counts_are

    totals, genes, extremes, whole = [], [], [0.0], True
    unknown = np.zeros(cells.n_vars, dtype=bool)  # genes with NaN, which are told of apart
    for _, rows in iter_rows(cells.X):
        known = ~np.isnan(rows.data)
        unknown[rows.indices[~known]] = True
        rows = rows if known.all() else keep_entries(rows, known)
        totals.append(totals_of(rows))
        genes.append(np.diff(rows.indptr))
        if len(rows.data):
            extremes += [float(rows.data.min()), float(rows.data.max())]
            whole = whole and bool((rows.data == np.rint(rows.data)).all())
    total, gene = np.concatenate(totals), np.concatenate(genes)
    empty, largest = int((gene == 0).sum()), max(extremes)
    if empty:
        mind.append(
            f"{empty:,} cells have no counts and get a zero embedding: sc.pp.filter_cells(adata, min_counts=1)."
        )
    if unknown.any():
        mind.append(f"{about_nan(int(unknown.sum()), len(unknown))} scjepa fit, given several files, joins them so.")
    if min(extremes) < 0 or not np.isfinite(largest):
        mind.append(f"Counts are negative or not finite. {where_counts_are(file, layer)}")
    elif not whole:
        log = " and look log-transformed" if largest < _LARGEST_LOG else ""
        mind.append(f"The values are not integers{log}. {where_counts_are(file, layer)}")
    kind = "integers" if whole else "non-integer values"
    return f"{kind} up to {largest:,.4g}; a cell has {np.median(total):,.4g} in {np.median(gene):,.0f} genes (medians)"


def _of_tissue(cells: AnnData, file: DataFile, names: Names, n_neighbors: int, mind: list[str]) -> dict[str, str]:
    """Return what ST-JEPA looks at besides counts: tokens, coordinates, sections, technologies and the graph."""
    sections, technologies = cells.obs.get(names.library_key), cells.obs.get(names.technology_key)
    return {
        "tokens": _tokens(cells, mind),
        "coordinates": _coordinates(cells, names, sections, mind),
        "sections": _names(sections),
        "technologies": _names(technologies) + _panels(cells, file, names, technologies),
        "graph": _graph(cells, file, names, n_neighbors, mind),
    }


def _tokens(cells: AnnData, mind: list[str]) -> str:
    """Tell which genes of a cell the presets but the paper's make tokens of, and why."""
    from scjepa.tokens.choice import choose, count_spread, describe_tokens, same_by_count

    try:
        spread = count_spread(cells.X)
    except (TypeError, ValueError):  # the counts' own line tells
        return ""
    mind += [sentence for sentence in [same_by_count(spread)] if sentence]
    tokens = shared.PRESETS["base"].tokens
    chosen = choose(tokens, cells.var_names, lambda without: count_spread(cells.X, without))
    told = f"{describe_tokens(chosen, cells.var_names)} (presets demo, base and technologies)\nby count, {spread}"
    return told if chosen.ranks == "counts" else f"{told}\n{_WHOLE}"


def _coordinates(cells: AnnData, names: Names, sections: pd.Series | None, mind: list[str]) -> str:
    import numpy as np
    from scipy.spatial import cKDTree

    place = cells.obsm[names.spatial_key]
    parts = [place] if sections is None else [place[sections == name] for name in sections.unique()]
    distances = np.concatenate([cKDTree(part).query(part, k=2)[0][:, 1] for part in parts])  # infinite for one cell
    same = int((distances == 0).sum())
    if same:
        mind.append(f"{same:,} cells lie exactly on another.")
    apart = f"the nearest cell is {np.median(distances):.4g} away (median)"
    return f"obsm[{names.spatial_key!r}], {place.shape[1]} dimensions; {apart}"


def _names(column: pd.Series | None) -> str:
    if column is None:
        return "one"
    sizes = column.value_counts()
    shown = ", ".join(f"{name} ({size:,})" for name, size in sizes.iloc[:_SHOWN].items())
    return f"obs[{column.name!r}], {len(sizes)}: {shown}{', ...' if len(sizes) > _SHOWN else ''}"


def _panels(cells: AnnData, file: DataFile, names: Names, technologies: pd.Series | None) -> str:
    """Tell, where there are several technologies, of the genes that each measured."""
    if technologies is None or technologies.nunique() < 2 or not cells.var_names.is_unique:
        return ""
    from scjepa.cli.cells import together

    panels = together({file.name: cells}, names).varm[names.panel_key]
    known = {name: _keys.as_key(name) for name in sorted(set(technologies))}
    each = ", ".join(f"{name} {panels[key].sum():,} genes" for name, key in known.items())
    return f"\n{each}; {int(panels.all(axis=1).sum()):,} in all"


def _graph(cells: AnnData, file: DataFile, names: Names, n_neighbors: int, mind: list[str]) -> str:
    """Tell of the spatial graph, and what training would say of it."""
    import numpy as np

    from scjepa.cli.cells import PARTS, has_graph, refuse_small_sections
    from scjepa.tokens.neighbors import build_neighbor_table

    if not has_graph(cells, names):
        try:
            refuse_small_sections(cells, file, names, n_neighbors)
        except ValueError as error:
            mind.append(str(error))
        return "none: scjepa fit builds one"
    graphs = [cells.obsp.get(f"{names.neighbors_key}_{part}") for part in PARTS]
    noted = cells.uns.get(f"{names.neighbors_key}_neighbors", {}).get("params", {})
    sections = cells.obs.get(names.library_key)
    how: shared.Values = {"two_hop": noted.get("transform") == "cosine", "cell_names": cells.obs_names}
    how["sections"] = None if sections is None else sections.to_numpy()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        try:
            build_neighbor_table(graphs[0], graphs[1], cells.obsm[names.spatial_key], n_neighbors, **how)
            refused = []
        except ValueError as error:
            refused = [str(error)]
    found = refused + [str(one.message) for one in told if one.category is UserWarning]
    mind += [f"{text} Or: scjepa fit --rebuild-graph." for text in found]
    degrees = np.diff(next(graph for graph in graphs if graph is not None).tocsr().indptr)
    spread = f"{degrees.min()}" if degrees.min() == degrees.max() else f"{degrees.min()} to {degrees.max()}"
    return f"{spread} neighbors a cell"


def _against_model(saved: SavedModel, file: DataFile, options: argparse.Namespace) -> dict[str, str]:
    """Tell how much of the file a model can read, and what embedding it would take."""
    adata = saved.cells_of(file, options)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Genes the model does not know")  # the report tells
            model = saved.load(adata, options.accelerator)
            told = [line.strip() for line in str(model.coverage()).splitlines()[1:]]
            told = [line for line in told if "model.coverage" not in line]  # no advice on Python here
            return {"coverage": "\n".join(told), "estimate": str(model.estimate())}
    except ValueError as error:
        return {"coverage": str(error)}


def _estimate(kind: shared.Kind, cells: AnnData, file: DataFile, names: Names, options: argparse.Namespace) -> str:
    """Tell what training would take."""
    import scjepa
    from scjepa.cli.cells import add_graph, join

    config, keys, model = shared.configuration(options.preset, [], kind), {}, getattr(scjepa, kind.model)
    if isinstance(config, shared.STJEPAConfig):
        add_graph(cells, file, names, config.tokens.n_neighbors)
        keys = join([file], [cells], names)[1].to_dict()
    model.setup_anndata(cells, **keys)
    model = model(cells, preset=config)
    if options.accelerator not in ("auto", "cpu"):
        model.to_device(options.accelerator)
    return f"preset {options.preset!r}: {model.estimate()}"


COMMAND = shared.Command.of(__doc__, run, What, shared.Device, (shared.Where, shared.OF_PLACES))
