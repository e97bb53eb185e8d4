"""What was fitted before gives to files of cells: ``embed``, ``annotate``, ``predict`` and ``perturb``."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

from scjepa._core import keys as _keys
from scjepa._core import stored
from scjepa._core.stored import DataFile
from scjepa.cli import cohort, io
from scjepa.cli import options as shared
from scjepa.cli.options import Column, Key, Paths, Positive

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

    from scjepa.atlas import NicheAtlas
    from scjepa.celljepa.model import CellJEPA
    from scjepa.cli.cells import Model, SavedModel
    from scjepa.perturbation import ConditionProfiles, PerturbationStack

BOTH = "both"

EMBEDDING_ALONE, LABELS_ALONE = (".npy", ".csv", ".parquet"), (".csv", ".parquet")
"""Suffixes of files that hold the result and no cells."""


@dataclass(frozen=True)
class Embeddings:
    """Results.

    Parameters
    ----------
    out
        File to write (.h5ad, .zarr, .npy, .csv, .parquet), or a folder for one file each, named as the inputs; without
        it, embeddings are added to the input files, which takes --overwrite.
    format
        Of the files in a folder. Default: that of the inputs.
    overwrite
        Replace files that are there, and the embedding in them.
    scale
        Of STJEPA, neighborhood: the mean over a cell and its neighbors; cell: the cell seen in their context, which
        scjepa niches takes. Default: both, and neighborhood for .npy, .csv and .parquet. Of CellJEPA, cls: the vector
        of the cell; genes: the mean of its genes' vectors. Default: cls.
    key_added
        obsm key. Default: X_stjepa (neighborhood), X_stjepa_cell (cell), X_celljepa (cls), X_celljepa_genes (genes);
        with both scales, the second is KEY_cell or KEY_genes.
    genes
        known: genes the model does not know are left out; all: they are taken in, with vectors drawn at random. A
        CellJEPA model leaves them out until they are trained.
    """

    out: Path | None = None
    format: Literal["h5ad", "zarr", "npy", "csv", "parquet"] | None = None
    overwrite: bool = False
    scale: Literal["neighborhood", "cell", "cls", "genes", "both"] | None = None
    key_added: Key | None = None
    genes: Literal["known", "all"] = "known"


def embed(options: argparse.Namespace) -> None:
    """``scjepa embed``: embed the cells of files with a saved model.

    Embed cells with a saved model of either kind. Each file is embedded by itself; genes are aligned with the model's
    by name. The result is a copy of the file with the embedding in obsm, or the embedding alone (.npy, .csv, .parquet).
    A copy of a file without a spatial graph has the one that was built, which scjepa niches takes.
    The paths written are printed on stdout. A .npy is written piece by piece: the same command goes on where it was
    killed.

        scjepa embed model section.h5ad --out embedded.h5ad
        scjepa embed model *.h5ad --out embedded/
        scjepa embed mouse-brain-small section.h5ad --out embedded.h5ad
        scjepa embed model section.h5ad --overwrite
        scjepa embed model section.h5ad --out cells.npy --scale cell
        scjepa embed model prepared --out cells.npy
        scjepa embed model prepared --out embedded/
        scjepa embed model xenium.zarr --out embedded/ --format h5ad
    """
    from scjepa.cli.cells import SavedModel, new_graph

    progress = shared.Progress(options)
    if cohort.is_prepared(options.files):
        return cohort.embed(options, progress)
    files = io.data_files(options.files, options.table)
    suffix = None if options.format is None else f".{options.format}"
    targets = io.plan(files, options.out, options.overwrite, suffix, EMBEDDING_ALONE)
    saved = SavedModel(options.model)
    if options.genes == "all" and saved.kind.model == "CellJEPA":
        raise shared.UsageError(
            "--genes all: a CellJEPA model reads genes that it was trained on. scjepa fit --from trains more."
        )
    scales = [scales_of(target, options, saved.kind) for target in targets]
    graph = options.neighbors_key or saved.keys.neighbors_key
    for file, target, keys in zip(files, targets, scales, strict=True):
        if target.suffix not in EMBEDDING_ALONE:
            io.refuse_written(file, "obsm", keys.values(), options.overwrite)
    for file, target, keys in zip(files, targets, scales, strict=True):
        adata = saved.cells_of(file, options)
        model = saved.load(adata, options.accelerator, all_genes=options.genes == "all")
        progress.step(f"{file.path}: embedding {adata.n_obs:,} cells")
        _write(model, file, target, keys, options.overwrite, new_graph(adata, file, saved.keys, graph))
        progress.step(f"wrote {target}")
        shared.written(target)


def scales_of(target: Path, options: argparse.Namespace, kind: shared.Kind) -> dict[str, str]:
    """Return the scales that go into a file, and the key of each."""
    alone = target.suffix in EMBEDDING_ALONE
    if options.scale not in (None, BOTH, *kind.scales):
        raise shared.UsageError(f"--scale {options.scale}: a {kind.model} model embeds {' and '.join(kind.scales)}.")
    if options.scale == BOTH and alone:
        raise shared.UsageError(f"{target} holds one embedding: name --scale {' or '.join(kind.scales)}.")
    first, second = kind.scales
    wanted = {None: (first,) if alone else kind.usual, BOTH: (first, second)}.get(options.scale, (options.scale,))
    if options.key_added is None:
        return {scale: kind.scales[scale] for scale in wanted}
    return {scale: options.key_added if i == 0 else f"{options.key_added}_{scale}" for i, scale in enumerate(wanted)}


def _write(
    model: Model, file: DataFile, target: Path, keys: Mapping[str, str], overwrite: bool, graph: stored.Additions
) -> None:
    """Embed, and write an embedding alone, or a copy of the file with embeddings and the graph that was built."""
    if target.suffix == ".npy":
        (scale,) = keys
        target.parent.mkdir(parents=True, exist_ok=True)
        if overwrite:
            cohort.forget(target)
        model.get_latent_representation(scale=scale, out=target)  # piece by piece, and from where a killed one stopped
        return
    embeddings = {key: model.get_latent_representation(scale=scale) for scale, key in keys.items()}
    if target.suffix not in EMBEDDING_ALONE:
        return stored.add(file, replace(graph, obsm=embeddings), target)
    import pandas as pd

    ((key, embedding),) = embeddings.items()
    columns = [f"{key}_{i}" for i in range(embedding.shape[1])]
    io.write_table(pd.DataFrame(embedding, index=model.adata.obs_names, columns=columns), target)


EMBED = shared.Command.of(
    embed.__doc__, embed, shared.ModelAndFiles, Embeddings, shared.Device, (shared.Where, shared.OF_PLACES)
)


# -- labels ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Labels:
    """Labels.

    Parameters
    ----------
    reference
        Files of labelled cells, where the model keeps none.
    labels_key
        Their obs column of labels; cells without one, or unlabelled, have no say.
    reference_batch_key
        Their obs column of donors or batches, held out in turn to calibrate. Default: each file is a batch.
    n_neighbors
        Nearest labelled cells, whose commonest label it is. Not of linear.
    min_confidence
        Confidence that a label must have, 0 to 1; below, a cell gets none.
    unknown
        Share of cells of known labels that may be called unknown, between 0 and 1. Default: 0.1 for linear; models call
        none unknown.
    hierarchy
        For linear: a table (.csv) of terms and their parents, two columns with a header, such as of the Cell Ontology;
        each cell then gets the most specific term that is sure as well.
    doublets
        For linear: also flag doublets, by scrublet.
    """

    reference: Paths | None = None
    labels_key: Column | None = None
    reference_batch_key: Column | None = None
    n_neighbors: Positive = 15
    min_confidence: float = 0.0
    unknown: float | None = None
    hierarchy: Path | None = None
    doublets: bool = False


@dataclass(frozen=True)
class Annotations:
    """Results.

    Parameters
    ----------
    out
        File to write (.h5ad, .zarr, .csv, .parquet), or a folder for one file each, named as the inputs; without it,
        labels are added to the input files, which takes --overwrite.
    format
        Of the files in a folder. Default: that of the inputs.
    overwrite
        Replace files that are there, and labels in them.
    resume
        Leave out the inputs whose result is in the folder --out already.
    key_added
        obs column of labels; those of confidence and what else is told begin with its name.
    """

    out: Path | None = None
    format: Literal["h5ad", "zarr", "csv", "parquet"] | None = None
    overwrite: bool = False
    resume: bool = False
    key_added: Column = "predicted_label"


def annotate(options: argparse.Namespace) -> None:
    """``scjepa annotate``: label the cells of files by labelled cells, in closed form or with a Cell-JEPA model.

    In the place of a model, linear: linear discriminants on principal components of the genes that cells and
    --reference have in common, seconds and no training (scjepa.tl.annotate). Each file gets obs columns of labels, with
    "unknown" for cells that are farther from all labels than held-out cells; of calibrated confidence; of the genes
    that speak for the label; and more.

    With a model, by the labelled cells that are nearest in its embedding: those that it keeps (one that scjepa fit
    --finetune made), or those of --reference. Confidence is the share of its neighbors that have the label, which is no
    probability of being right. A cell of a type that no labelled cell has gets a label too, unless --unknown or
    --min-confidence leaves it out; cells without counts get none. The paths written are printed on stdout.

        scjepa annotate linear new.h5ad --reference atlas.h5ad --labels-key cell_type --out labelled.h5ad
        scjepa annotate annotator new.h5ad --out labelled.h5ad
        scjepa annotate annotator *.h5ad --out labelled/ --min-confidence 0.6
        scjepa annotate annotator *.h5ad --out labels/ --format csv --resume
        scjepa annotate model new.h5ad --reference atlas.h5ad --labels-key cell_type --out labelled.h5ad
    """
    from scjepa.cli.cells import SavedModel

    linear = str(options.model) == LINEAR
    if linear and options.reference is None:
        raise shared.UsageError("linear needs labelled cells: --reference FILE --labels-key COLUMN.")
    if not linear and (options.hierarchy or options.doublets or options.reference_batch_key):
        raise shared.UsageError(
            "--hierarchy, --doublets and --reference-batch-key go with linear, in the model's place."
        )
    if (options.reference is None) != (options.labels_key is None):
        raise shared.UsageError("--reference and --labels-key go together: labelled cells, and the column of labels.")
    if not 0 <= options.min_confidence <= 1:
        raise shared.UsageError(f"--min-confidence is a share, from 0 to 1; found {options.min_confidence}.")
    if options.resume and options.out is None:
        raise shared.UsageError("--resume goes with --out, the folder that holds the results.")
    progress = shared.Progress(options)
    files = io.data_files(options.files, options.table)
    suffix = None if options.format is None else f".{options.format}"
    targets = io.plan(files, options.out, options.overwrite or options.resume, suffix, LABELS_ALONE)
    for file, target in zip(files, targets, strict=True):
        if target.suffix not in LABELS_ALONE:
            io.refuse_written(file, "obs", _columns(options.key_added), options.overwrite)
    label = _by_linear(options, progress) if linear else _by_model(SavedModel(options.model), options, progress)
    for file, target in zip(files, targets, strict=True):
        if options.resume and not options.overwrite and target.exists():
            progress.step(f"{target} is there")
        else:
            found = label(file)
            found.loc[found["confidence"] < options.min_confidence, "label"] = None
            _write_labels(found, file, target, options)
            progress.step(f"{_shares(found['label'])}; wrote {target}")
        shared.written(target)


LINEAR = "linear"
"""What is named in the place of a model for labels in closed form."""

Label: TypeAlias = "Callable[[DataFile], pd.DataFrame]"
"""From a file to its labels, ``"label"`` and ``"confidence"`` and what else is told."""


def _columns(key: str) -> list[str]:
    """Return the columns that may be written."""
    return [key, *(f"{key}_{part}" for part in _keys.ANNOTATION_PARTS)]


def _by_linear(options: argparse.Namespace, progress: shared.Progress) -> Label:
    """Return the function that labels the cells of a file in closed form."""
    import pandas as pd

    from scjepa.cli.cells import Names, read_cells
    from scjepa.tl import annotate as annotate_cells

    names = Names.of(shared.KINDS["celljepa"], shared.Where())

    keys = {"labels_key": options.labels_key, "batch_key": options.reference_batch_key}
    of_reference = Names.of(shared.KINDS["celljepa"], shared.Where(**keys))
    where = shared.Where(layer=options.layer, **keys)
    reference = {file.name: read_cells(file, where, of_reference) for file in io.data_files(options.reference)}
    for name, part in reference.items():
        progress.step(f"{name}: {part.n_obs:,} labelled cells for reference")
    parents = None if options.hierarchy is None else pd.read_csv(options.hierarchy, dtype=str)

    def label(file: DataFile) -> pd.DataFrame:
        """Return what is known of each cell of a file: label, confidence, and what speaks for it."""
        cells = read_cells(file, shared.Where(layer=options.layer, table=options.table), names)
        progress.step(f"{file.path}: labels of {cells.n_obs:,} cells")
        annotate_cells(
            cells,
            reference,
            of_reference.labels_key,
            batch_key=None if options.reference_batch_key is None else of_reference.batch_key,
            hierarchy=parents,
            error=0.1 if options.unknown is None else options.unknown,
            find_doublets=options.doublets,
            key_added="label",
        )
        written = [name for name in _columns("label") if name in cells.obs]
        return cells.obs[written].rename(columns=lambda name: name.removeprefix("label_"))

    return label


def _by_model(saved: SavedModel, options: argparse.Namespace, progress: shared.Progress) -> Label:
    """Return the function that labels the cells of a file with a model."""
    _check_labels(saved, options)
    model = None if options.reference is None else _with_reference(saved, options, progress)
    how = {"n_neighbors": options.n_neighbors, "unknown": options.unknown}

    def label(file: DataFile) -> pd.DataFrame:
        cells = saved.cells_of(file, options)
        progress.step(f"{file.path}: labels of {cells.n_obs:,} cells")
        if model is None:
            return saved.load(cells, options.accelerator).predict_labels(**how)
        return model.predict_labels(cells, **how)

    return label


def _check_labels(saved: SavedModel, options: argparse.Namespace) -> None:
    """Raise unless there are labelled cells, and one set of them."""
    if saved.kind.model != "CellJEPA":
        raise ValueError(
            f"{saved.name} is a {saved.kind.model} model, and labels are carried by CellJEPA models: scjepa fit "
            "--model celljepa. Groups of cells in tissue, the same in several files: scjepa niches."
        )
    keeps = "labels" in saved.facts
    finetune = f"scjepa fit FILE --from {saved.name} --labels-key COLUMN --finetune --out NEW"
    if not keeps and options.reference is None:
        raise ValueError(
            f"{saved.name} keeps no labelled cells. Name some: --reference FILE --labels-key COLUMN. Or fine-tune it "
            f"on them: {finetune}."
        )
    if keeps and options.reference is not None:
        raise ValueError(
            f"{saved.name} keeps labelled cells of its own, which would vote instead: leave --reference out. Or "
            f"fine-tune it on others: {finetune}."
        )


def _with_reference(saved: SavedModel, options: argparse.Namespace, progress: shared.Progress) -> CellJEPA:
    """Return the model on the labelled cells; genes that it does not know are left out."""
    import scjepa
    from scjepa.cli.cells import Names, join, read_cells

    where = shared.Where(layer=options.layer or saved.keys.layer or None, labels_key=options.labels_key)
    names = Names.of(saved.kind, where)
    files = io.data_files(options.reference)
    adata, keys = join(files, [read_cells(file, where, names) for file in files], names)
    known = adata.var_names.isin(saved.facts["vocabulary"])
    adata = adata[:, known].copy() if known.any() else adata  # of which the model says what is wrong
    progress.step(f"{adata.n_obs:,} cells for reference, {known.sum():,} of {len(known):,} genes known")
    scjepa.CellJEPA.setup_anndata(adata, **keys.to_dict())
    return scjepa.CellJEPA.from_pretrained(saved.path, adata, accelerator=options.accelerator)


def _write_labels(found: pd.DataFrame, file: DataFile, target: Path, options: argparse.Namespace) -> None:
    """Write labels alone, or a copy of the file with them."""
    key = options.key_added
    named = found.rename(columns=lambda name: key if name == "label" else f"{key}_{name}")
    if target.suffix in LABELS_ALONE:
        return io.write_table(named, target)
    how: dict[str, object] = {"model": str(options.model), "min_confidence": options.min_confidence}
    how |= {"n_neighbors": options.n_neighbors} if how["model"] != LINEAR else {}
    how |= {"unknown": options.unknown} if options.unknown is not None else {}
    notes = {name: {"slot": "obs", **how} for name in named}
    stored.add(file, stored.Additions(obs={name: named[name] for name in named}, notes=notes), target)


def _shares(labels: pd.Series) -> str:
    """Return how many cells got the commonest labels, and how many none."""
    sizes = labels.value_counts()
    said = [f"{name} {size:,}" for name, size in sizes.iloc[:6].items() if size]
    said += [f"{(sizes > 0).sum() - 6} others"] if (sizes > 0).sum() > 6 else []
    return ", ".join([*said, f"none {labels.isna().sum():,}"] if labels.isna().any() else said)


ANNOTATE = shared.Command.of(
    annotate.__doc__,
    annotate,
    shared.ModelAndFiles,
    Labels,
    Annotations,
    shared.Device,
    (shared.Where, ("layer", "table")),
)


# -- niches of an atlas ----------------------------------------------------------------------------------------------


_PLACES = tuple(name for name in shared.OF_PLACES if name != "technology_key")


@dataclass(frozen=True)
class Atlas:
    """Niches.

    Parameters
    ----------
    atlas
        Folder that NicheAtlas.save wrote.
    error
        Share of the atlas' own held-out cells that would be unknown, between 0 and 1. Default: the atlas'.
    spatial_neighbors
        Neighbors of each cell in the spatial graph that is built where a file has none. Default: the atlas'.
    """

    atlas: Path | None = None
    error: float | None = None
    spatial_neighbors: Positive | None = None


def predict(options: argparse.Namespace) -> None:
    """``scjepa predict``: the niches of an atlas in new sections.

    Give cells the niches of an atlas (scjepa.NicheAtlas, a folder), under the same names in every file. Each file gets
    an obs column of niches, in which a cell that lies farther from the atlas than its own held-out cells is "unknown";
    columns of confidence and of the p-value of that; shares of votes of all niches (obsm), and the read-out. A section
    that does not compare with the atlas, by genes, by the share of unknown cells or by how its cells vary, is told of
    on stderr. An embedding that the atlas reads must be in the files: scjepa embed. The paths written are printed on
    stdout.

        scjepa predict new.h5ad --atlas atlas --out predicted.h5ad
        scjepa predict day*/*.h5ad --atlas atlas --out predicted/
        scjepa predict new.h5ad --atlas atlas --error 0.05 --key-added atlas_niche --overwrite
    """
    from scjepa.atlas import NicheAtlas

    if options.atlas is None:
        raise shared.UsageError("Name the atlas with --atlas: a folder that NicheAtlas.save wrote.")
    progress = shared.Progress(options)
    files = io.data_files(options.files, options.table)
    targets = io.plan(files, options.out, options.overwrite)
    atlas = NicheAtlas.load(options.atlas)
    progress.step(f"atlas: {atlas.describe()}")
    columns, arrays = atlas.written(options.key_added)
    for file in files:
        io.refuse_written(file, "obs", columns, options.overwrite)
        io.refuse_written(file, "obsm", arrays, options.overwrite)
    for file, target in zip(files, targets, strict=True):
        _predict(atlas, file, target, options, progress)
        shared.written(target)


def _predict(
    atlas: NicheAtlas, file: DataFile, target: Path, options: argparse.Namespace, progress: shared.Progress
) -> None:
    cells = _cells_for(atlas, file, options)
    key = options.key_added
    progress.step(f"{file.path}: niches of {cells.n_obs:,} cells")
    atlas.predict(cells, key, error=options.error)
    columns, arrays = atlas.written(key)
    additions = stored.Additions(
        obs={name: cells.obs[name] for name in columns},
        obsm={name: cells.obsm[name] for name in arrays},
        uns={f"{key}_colors": cells.uns[f"{key}_colors"]},
        notes=cells.uns[_keys.UNS],
    )
    stored.add(file, additions, target)
    sizes = cells.obs[key].value_counts(sort=False)
    progress.step(f"{', '.join(f'{name} {size:,}' for name, size in sizes.items() if size)}; wrote {target}")


def _cells_for(atlas: NicheAtlas, file: DataFile, options: argparse.Namespace) -> AnnData:
    """Return the cells of a file with counts in ``X``, the spatial graph, and the embeddings that the atlas reads."""
    from scjepa._core.anndata import array_of
    from scjepa.cli.cells import Names, add_graph, read_cells, read_parts

    names = Names.of(shared.KINDS["stjepa"], shared.Where())
    cells = read_cells(file, shared.Where.of(options), names, use_graph=not options.rebuild_graph)
    add_graph(cells, file, names, options.spatial_neighbors or atlas.n_neighbors, "--spatial-neighbors")
    embeddings = [f"obsm/{name}" for name in atlas.readout.sources_ if name != _keys.EXPRESSION]
    found = read_parts(file, None, embeddings, use_counts=False)
    cells.obsm.update({name: array_of(found.obsm[name]) for name in found.obsm})
    return cells


PREDICT = shared.Command.of(predict.__doc__, predict, shared.Files, Atlas, shared.AddedNiches, (shared.Where, _PLACES))


# -- effects of perturbations ----------------------------------------------------------------------------------------


_OF_CONDITIONS = (*io.ANNDATA, ".csv", ".parquet")


@dataclass(frozen=True)
class Screen:
    """Arguments.

    Parameters
    ----------
    screen
        Cells of measured conditions and of control: .h5ad or .zarr (AnnData), raw counts.
    """

    screen: Path


@dataclass(frozen=True)
class Wanted:
    """Conditions.

    Parameters
    ----------
    conditions
        Conditions to predict; genes need not have been perturbed. One that is named twice is predicted once.
    condition_key
        obs column of conditions in the screen.
    gene_sets
        Files of gene sets (.gmt), such as Reactome's and MSigDB's hallmarks: perturbed genes of the same sets then
        share what they do.
    layer
        Layer of raw counts, or X for the matrix. Default: X.
    size_key
        obs column of each cell's size, for panels of chosen genes. Default: the sum of its counts.
    out
        File to write: .h5ad, .zarr, .csv or .parquet.
    overwrite
        Replace a file that is there.
    """

    conditions: Annotated[list[str], "CONDITION"] | None = None
    condition_key: Column = "condition"
    gene_sets: shared.Paths | None = None
    layer: str | None = None
    size_key: Column | None = None
    out: Path | None = None
    overwrite: bool = False


def perturb(options: argparse.Namespace) -> None:
    """``scjepa perturb``: predict what perturbations that were not measured do to expression, from a screen.

    Predict mean profiles of conditions by closed-form models (scjepa.perturbation.PerturbationStack), weighed by
    cross-validation over the conditions of the screen: seconds, no network. Conditions are written as GEARS does: ctrl,
    A (or A+ctrl), A+B. The result is a file of conditions x genes: predicted expression in X, log(1 + count / size
    times the median size); that of control in layers["control"]; and in layers["error"] the usual error on conditions
    that were left out. A .csv or .parquet holds the predicted expression alone. What cross-validation found of each
    model is told on stderr; the path written is printed on stdout.

        scjepa perturb screen.h5ad --conditions KLF1 KLF1+MAP2K6 --out predicted.h5ad
        scjepa perturb screen.h5ad --conditions KLF1 --gene-sets hallmark.gmt reactome.gmt --out predicted.h5ad
        scjepa perturb screen.zarr --conditions KLF1 --condition-key guides --size-key n_counts --out predicted.csv
    """
    import pandas as pd

    import scjepa.perturbation as pt
    from scjepa.cli.cells import X, read_parts
    from scjepa.datasets import read_gmt
    from scjepa.perturbation.conditions import canonical

    if not options.conditions:
        raise shared.UsageError("Name what to predict with --conditions, such as KLF1 KLF1+MAP2K6.")
    if options.out is None or options.out.suffix not in _OF_CONDITIONS:
        raise shared.UsageError(f"Name the file to write with --out; it ends in {', '.join(_OF_CONDITIONS)}.")
    io.refuse_existing(options.out, options.overwrite)
    progress = shared.Progress(options)
    (file,) = io.data_files([options.screen])
    sets = {f"{path.stem}/{name}": genes for path in options.gene_sets or () for name, genes in read_gmt(path).items()}
    layer = None if options.layer == X else options.layer
    cells = read_parts(file, layer, [])
    known = pt.condition_profiles(cells, options.condition_key, size_key=options.size_key)
    progress.step(f"{file.path}: {len(known.means):,} conditions of {cells.n_obs:,} cells")
    stack = pt.PerturbationStack().fit(known.means, known.control, known.noise, vectors=_vectors(known, sets, options))
    scores = stack.scores_.groupby("column", sort=False)["pearson_delta"].mean()
    if len(scores):
        found = ", ".join(f"{name} {score:.2f}" for name, score in scores.items())
        progress.step(f"correlation of changes on conditions left out: {found}")
    wanted: dict[str, str] = {}
    for name in options.conditions:
        wanted.setdefault(canonical(name), name)
    predicted, error = stack.predict(list(wanted.values()), return_std=True)
    control = pd.DataFrame([known.control] * len(predicted), predicted.index, predicted.columns)
    _write_conditions(stack, {"X": predicted, "control": control, "error": error}, options.out)
    shared.written(options.out)


def _vectors(
    known: ConditionProfiles, sets: Mapping[str, tuple[str, ...]], options: argparse.Namespace
) -> pd.DataFrame | None:
    """Return vectors of perturbed genes, measured and wanted, by the gene sets; ``None`` where there are none."""
    from scjepa.perturbation import gene_set_vectors, parse_condition

    if not sets:
        return None
    genes = {gene for name in (*known.means.index, *options.conditions) for gene in parse_condition(name)}
    return gene_set_vectors(sets, sorted(genes))


def _write_conditions(stack: PerturbationStack, found: Mapping[str, pd.DataFrame], target: Path) -> None:
    import numpy as np
    import pandas as pd
    from anndata import AnnData

    from scjepa._core.files import whole

    predicted = found["X"]
    if target.suffix not in io.ANNDATA:
        return io.write_table(predicted, target, "condition")
    obs = pd.DataFrame({"kind": [stack.kind_of(name) for name in predicted.index]}, index=predicted.index)
    of_screen = AnnData(predicted.to_numpy(np.float32), obs=obs, var=pd.DataFrame(index=predicted.columns))
    of_screen.layers["control"] = found["control"].to_numpy(np.float32)
    of_screen.layers["error"] = found["error"].to_numpy(np.float32)
    with whole(target) as draft:
        (of_screen.write_h5ad if target.suffix == ".h5ad" else of_screen.write_zarr)(draft)


PERTURB = shared.Command.of(perturb.__doc__, perturb, Screen, Wanted)
