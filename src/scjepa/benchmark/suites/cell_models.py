"""Cell-JEPA's models of a comparison: configured, trained once for each seed, kept, and read out."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import pandas as pd
from anndata import AnnData

from scjepa._core.files import whole
from scjepa._core.plain import take_plain
from scjepa.benchmark.controls import BATCH, HARMONY, HVG_PCA, Embed
from scjepa.benchmark.method import OWN, REGISTRY, Arguments, Method, Parts, checked_embedding, peers_of
from scjepa.benchmark.outcome import Took
from scjepa.benchmark.study import Entry, Methods, Options, Say, choose, word
from scjepa.benchmark.suites import cell_tasks
from scjepa.benchmark.suites.cell_tasks import PRETRAINED, UNTRAINED, ZERO_SHOT, CellScoring, Corpus, TargetCells
from scjepa.celljepa.config import CELL_PRESETS, CellJEPAConfig, resolve_cells

if TYPE_CHECKING:
    from scjepa.celljepa.model import CellJEPA

PARTS = ("tokens", "encoder", "masking", "objective", "training", "finetuning")
"""Parts of Cell-JEPA's configuration that an option can change."""

_EMBEDDING = ("tokens", "encoder")
_TRAINING = (*_EMBEDDING, "masking", "objective", "training")

_MODULE = "module"
"""``var`` column of co-expression modules."""


def _not_run(adata: AnnData, **arguments: object) -> None:
    raise TypeError("Models of Cell-JEPA are trained by the comparison itself.")


@dataclass(frozen=True)
class CellModel(Method):
    """Cell-JEPA, or a control that shares its configuration.

    Attributes
    ----------
    changes
        What it changes in the preset.
    modules
        Whether gene modules are its tokens.
    """

    changes: Arguments = field(default_factory=dict)
    modules: bool = False


def _model(title: str, description: str, settings: str, modules: bool = False, **changes: Arguments) -> CellModel:
    options = ("preset", "modules", "n_modules", *PARTS) if modules else PARTS
    own: Parts = {"group": "models", "title": title, "changes": changes, "modules": modules}
    return CellModel(description, _not_run, settings=(settings,), options=options, **own)


REGISTRY["cells"].update(
    {
        "celljepa": _model("CellJEPA", "Cell-JEPA of the preset", PRETRAINED),
        "reconstruction_only": _model(
            "reconstruction only",
            "the same with the weight of the JEPA term set to 0",
            PRETRAINED,
            objective={"jepa_weight": 0.0},
        ),
        "modules": _model("modules", "Cell-JEPA with gene modules as tokens, hidden whole", PRETRAINED, True),
        "untrained": _model("untrained", "Cell-JEPA with its initial weights", UNTRAINED),
        "untrained_modules": _model(
            "untrained modules", "the modules' encoder with its initial weights", UNTRAINED, True
        ),
        "hvg_pca": HVG_PCA,
        **peers_of("cells"),
        "harmony": HARMONY,
    }
)


@dataclass(frozen=True)
class CellTraining:
    """How :func:`~scjepa.benchmark.run_cells` trains Cell-JEPA's models.

    Parameters
    ----------
    preset
        Of Cell-JEPA, of reconstruction alone and of the untrained encoder: a name or a whole configuration. Gene
        modules have a preset of their own, ``"modules"``.
    changes
        Changes to that preset by part, such as ``{"objective": {"target_norm": "batch"}}``.
    max_steps
        Steps of pretraining of every model. Default: its preset's.
    finetune_epochs
        Passes of fine-tuning over the labelled cells. Default: the preset's.
    accelerator
        Device, by Lightning's name.
    models
        Folder of pretrained models, which comparisons on several targets may share: they are found again by
        configuration, seed and cells. Default: ``models`` in the comparison's ``out``.
    """

    preset: str | CellJEPAConfig = "demo"
    changes: Arguments | None = None
    max_steps: int | None = None
    finetune_epochs: int | None = None
    accelerator: str = "auto"
    models: str | Path | None = None

    def __post_init__(self) -> None:
        take_plain(self)

    def lengthened(self, config: CellJEPAConfig) -> CellJEPAConfig:
        """Return a configuration with these numbers of steps and epochs."""
        if self.max_steps is not None:
            config = resolve_cells(config, training={"max_steps": self.max_steps, "max_epochs": None})
        if self.finetune_epochs is not None:
            training = replace(config.finetuning.training, max_epochs=self.finetune_epochs, max_steps=None)
            config = resolve_cells(config, finetuning={"training": training})
        return config


@dataclass(frozen=True)
class CellEntry(Entry):
    """A method with its configuration, which is another one for fine-tuning.

    Attributes
    ----------
    config
        Of Cell-JEPA's models; ``options`` then are what the configuration does not hold.
    """

    config: CellJEPAConfig | None = None

    def parts(self, task: str) -> tuple[str, ...]:
        """Return the parts of the configuration that bear on a task."""
        parts = _EMBEDDING if self.settings == UNTRAINED else _TRAINING
        # Fine-tuning has an objective and a mask of its own, and what pretraining used is in its starting point.
        return (*parts, "finetuning") if task == cell_tasks.FINETUNE else parts

    def configuration_of(self, task: str) -> str:
        """Return what was chosen for a task in words; ``"-"`` where nothing was."""
        words = [] if self.config is None else [told(self.config, self.parts(task))]
        return ", ".join([*words, *(f"{name}={word(value)}" for name, value in self.options.items())]) or "-"

    def code_of(self, task: str) -> str:
        """Return a checksum of what a task's result rests on beside scjepa's code."""
        if self.config is None:
            return self.code
        own, files = _chosen(self.config, self.parts(task)), self.files()
        return _checksum([own, files] if files else own)

    def files(self) -> dict[str, str]:
        """Return a checksum of each file that an option names: what it holds may be other modules tomorrow."""
        paths = {name: Path(value) for name, value in self.options.items() if isinstance(value, str)}
        return {n: hashlib.sha256(path.read_bytes()).hexdigest()[:8] for n, path in paths.items() if path.is_file()}


def _chosen(config: CellJEPAConfig | None, parts: Sequence[str]) -> Parts:
    return {} if config is None else {name: part for name, part in asdict(config).items() if name in parts}


def _checksum(values: object) -> str:
    """Return a short checksum of plain values."""
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()[:8]


def told(config: CellJEPAConfig, parts: Sequence[str]) -> str:
    """Return the nearest preset, and what differs from it: ``"demo, training.max_steps=20"``."""
    own = _flat(_chosen(config, parts))
    differ = {}
    for name, preset in CELL_PRESETS.items():
        theirs = _flat(_chosen(preset, parts))
        differ[name] = [f"{key}={word(value)}" for key, value in own.items() if theirs[key] != value]
    nearest = min(differ, key=lambda name: len(differ[name]))
    return ", ".join([nearest, *differ[nearest]])


def _flat(values: Arguments, prefix: str = "") -> Parts:
    flat: Parts = {}
    for name, value in values.items():
        flat.update(_flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value})
    return flat


def entries_of(
    methods: Methods, training: CellTraining | None = None, options: Options | None = None
) -> list[CellEntry]:
    """Return the methods that take part; see :func:`~scjepa.benchmark.study.choose`."""
    entries = []
    for name, what in choose(methods, REGISTRY["cells"], options):
        if callable(what):
            entries.append(CellEntry.of(name, what, wrap=False))
        else:
            entries.append(_configured(name, training or CellTraining(), what))
    return list({entry.name: entry for entry in entries}.values())


def _configured(name: str, training: CellTraining, own: Parts) -> CellEntry:
    method = REGISTRY["cells"][name]
    if not isinstance(method, CellModel):
        return CellEntry(name, method, method.settings[0], options=own)
    own_parts = {part: own.pop(part) for part in PARTS if part in own}
    start = own.pop("preset", "modules") if method.modules else training.preset
    # What is said of the preset is said of gene tokens: modules have a preset, and options, of their own.
    steps = [method.changes, own_parts] if method.modules else [training.changes or {}, method.changes, own_parts]
    config = resolve_cells(start)
    for parts in steps:
        config = resolve_cells(config, **parts)
    if method.modules != (config.tokens.unit == "module"):
        kind = "modules" if method.modules else "genes"
        raise ValueError(f"{name!r} has {kind} as tokens, and the preset {start!r} has not. Name another preset.")
    if isinstance(own.get("modules"), Path):
        own["modules"] = str(own["modules"])
    return CellEntry(name, method, method.settings[0], options=own, config=training.lengthened(config))


# -- training, and reading out -------------------------------------------------------------------------------------


@dataclass
class Pretraining:
    """Cell-JEPA's models by method, corpus and seed.

    Attributes
    ----------
    folder
        Where they are kept; a training that was stopped goes on from the state that it left there.
    target
        The cells that are scored.
    corpus
        The cells to pretrain on; ``None``: those of the target that a method may be fitted on.
    scoring
        How cells are read out.
    accelerator
        Lightning's.
    say
        Called with a line when a training starts.
    """

    folder: Path
    target: TargetCells
    corpus: Corpus | None
    scoring: CellScoring
    accelerator: str
    say: Say
    _corpora: dict[str, Corpus] = field(default_factory=dict, repr=False)
    _embedded: dict[tuple[str, ...], tuple[np.ndarray, Took]] = field(default_factory=dict, repr=False)
    """The target's embeddings, which several tasks ask for, and what they took."""

    def corpus_for(self, fit: TargetCells) -> Corpus:
        """Return the cells to pretrain on where a method may be fitted on ``fit``."""
        return self.corpus or self._corpora.setdefault(fit.digest, cell_tasks.corpus_of(fit))

    def remembered(self, embed: Embed, about: tuple[str, ...], took: Took) -> Embed:
        """Return the function that embeds cells, the target once for all tasks."""

        def remembering(adata: AnnData) -> np.ndarray:
            if adata is not self.target.adata:
                return _timed(embed, took)(adata)
            if about not in self._embedded:
                own = Took()
                self._embedded[about] = (_timed(embed, own)(adata), own)
            embedding, own = self._embedded[about]
            took.add(**asdict(own))
            return embedding

        return remembering

    def model(self, entry: CellEntry, corpus: Corpus, seed: int, took: Took) -> CellJEPA:
        """Return the model of a method, trained on a corpus as its configuration says; its time is added to ``took``.

        The time is that of the training, also where the model was there already, and nothing for initial weights.
        """
        from scjepa.celljepa.model import CellJEPA

        if entry.settings == UNTRAINED:
            with _quiet():
                return self._build(entry, corpus, seed)
        about = [_chosen(entry.config, entry.parts(ZERO_SHOT)), {**entry.options, **entry.files()}, seed]
        folder = self.folder / f"{entry.name}.seed{seed}.{_checksum([*about, corpus.digest])}"
        times = folder.with_name(f"{folder.name}.json")
        if not (folder / "model.json").is_file():
            self._train(entry, corpus, seed, folder, times)
        with _quiet():
            model = CellJEPA.load(folder, corpus.adata, accelerator=self.accelerator)
        took.add(**json.loads(times.read_text()))
        return model

    def finetuned(self, entry: CellEntry, corpus: Corpus, seed: int, labelled: AnnData) -> CellJEPA:
        """Return the model of a method, fine-tuned on labelled cells."""
        with _quiet():
            model = self.model(entry, corpus, seed, Took()).on(labelled)
            model.finetune(validation_size=0, accelerator=self.accelerator, progress_bar=False)
        return model

    def _build(self, entry: CellEntry, corpus: Corpus, seed: int) -> CellJEPA:
        from scjepa.celljepa.model import CellJEPA
        from scjepa.tl import gene_modules

        adata, more, given = corpus.adata, Parts(), entry.options.get("modules")
        if isinstance(entry.method, CellModel) and entry.method.modules:
            if given is None:
                n_modules = entry.options.get("n_modules")
                gene_modules(adata, **({} if n_modules is None else {"n_modules": n_modules}))
            more["modules"] = _MODULE if given is None else given
        CellJEPA.setup_anndata(adata, labels_key=cell_tasks.LABEL)
        return CellJEPA(adata, cast("CellJEPAConfig", entry.config), seed=seed, **more)

    def _train(self, entry: CellEntry, corpus: Corpus, seed: int, folder: Path, times: Path) -> None:
        self.say(f"pretraining {entry.method.title} on {corpus.name} ({corpus.adata.n_obs:,} cells), seed {seed}")
        state, took = folder.with_name(f"{folder.name}.state"), Took()
        with took.counting(), _quiet():
            model = self._build(entry, corpus, seed)
            model.train(accelerator=self.accelerator, checkpoint_dir=state, ckpt_path="last", progress_bar=False)
        with whole(times) as part:  # before the model, which is what says that training is done
            part.write_text(json.dumps(asdict(took)))
        try:
            model.save(folder)
        except FileExistsError:  # another comparison, which shares the folder, was first to make the same model
            if not (folder / "model.json").is_file():
                raise
        shutil.rmtree(state, ignore_errors=True)


class Fitting:
    """A method with a seed, as a task asks for it; the time of the method alone, not of scoring, is in ``took``."""

    def __init__(self, models: Pretraining, entry: CellEntry, seed: int) -> None:
        self.models, self.entry, self.seed, self.took = models, entry, seed, Took()

    def embedders(self, fit: TargetCells, integrate: bool = False) -> dict[str, Embed]:
        """Return what embeds cells, by read-out.

        Parameters
        ----------
        fit
            Cells that the method may be fitted on; their labels are not used.
        integrate
            Whether methods that can are to integrate batches.
        """
        models, entry, run = self.models, self.entry, self.entry.method.run
        if entry.settings == OWN and callable(run):  # it gets a copy each time
            return {cell_tasks.PLAIN: _timed(lambda adata: run(adata.copy(), seed=self.seed), self.took)}
        if entry.config is None and callable(run):
            with self.took.counting(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                embed = run(fit.adata, seed=self.seed, batch_key=BATCH if integrate else None, **entry.options)
            return {cell_tasks.PLAIN: _timed(embed, self.took)}
        corpus = models.corpus_for(fit)
        about = (entry.name, entry.code_of(ZERO_SHOT), str(self.seed), corpus.digest)
        read = self._readouts(models.model(entry, corpus, self.seed, self.took))
        return {name: models.remembered(embed, (*about, name), self.took) for name, embed in read.items()}

    def finetuned(self, fit: TargetCells) -> dict[str, Embed]:
        """Return what embeds cells after fine-tuning on labels, by read-out; nothing for what is not fine-tuned."""
        if self.entry.config is None:
            return {}
        labelled = with_labels(fit.adata, fit.labels)
        with self.took.counting():
            model = self.models.finetuned(self.entry, self.models.corpus_for(fit), self.seed, labelled)
        return {name: _timed(embed, self.took) for name, embed in self._readouts(model).items()}

    def _readouts(self, model: CellJEPA) -> dict[str, Embed]:
        """Return what embeds cells by a model, by read-out, with as many of their genes as the scoring says."""
        scoring = self.models.scoring

        def embed(adata: AnnData, scale: str) -> np.ndarray:
            with _quiet():
                return model.get_latent_representation(adata, scale=scale, n_tokens=scoring.n_tokens, kept=scoring.kept)

        return {scale: partial(embed, scale=scale) for scale in scoring.readouts}


def _timed(embed: Embed, took: Took) -> Embed:
    """Return the function, its time counted and its result checked."""

    def timed(adata: AnnData) -> np.ndarray:
        with took.counting():
            found = embed(adata)
        return checked_embedding(found, adata.n_obs)

    return timed


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Lightning's notes, and warnings of genes that a model does not know, to themselves."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def with_labels(adata: AnnData, labels: np.ndarray) -> AnnData:
    """Return a copy of the cells with their labels, for fine-tuning."""
    cells = cell_tasks.without_labels(adata.copy())
    cells.obs[cell_tasks.LABEL] = pd.Categorical(labels)
    return cells
