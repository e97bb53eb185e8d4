"""Cell-JEPA's models of a comparison: trained once for each seed, kept, and read out."""

from __future__ import annotations

import json
import logging
import shutil
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
from anndata import AnnData

from scjepa.benchmark._files import whole
from scjepa.benchmark.cells._baselines import Embed
from scjepa.benchmark.cells._data import LABEL, Corpus, without_labels
from scjepa.benchmark.cells._methods import UNTRAINED
from scjepa.benchmark.cells._plan import CellEntry, checksum, chosen
from scjepa.benchmark.cells._scoring import CellScoring
from scjepa.celljepa.config import resolve_cells

if TYPE_CHECKING:
    from scjepa.celljepa.model import CellJEPA

_MODULE = "module"
"""``var`` column of co-expression modules."""


@dataclass(frozen=True)
class Taken:
    """A model, and what its training took when it was trained; zeros for initial weights."""

    model: CellJEPA
    seconds: float = 0.0
    cpu_seconds: float = 0.0


class Pretraining:
    """Models by method, corpus and seed.

    Parameters
    ----------
    folder
        Where they are kept; a training that was stopped goes on from the state that it left there.
    accelerator
        Lightning's.
    say
        Called with a line when a training starts.
    """

    def __init__(self, folder: Path, accelerator: str = "auto", say: Callable[[str], None] = lambda _: None) -> None:
        self.folder, self.accelerator, self.say = folder, accelerator, say

    def model(self, entry: CellEntry, corpus: Corpus, seed: int) -> Taken:
        """Return the model of a method, trained on a corpus as its configuration says."""
        if entry.settings == UNTRAINED:
            with quiet():
                return Taken(self._build(entry, corpus, seed))
        from scjepa.celljepa.model import CellJEPA

        folder = self._folder(entry, corpus, seed)
        took = folder.with_name(f"{folder.name}.json")
        if not (folder / "model.json").is_file():
            self._train(entry, corpus, seed, folder, took)
        with quiet():
            model = CellJEPA.load(folder, corpus.adata, accelerator=self.accelerator)
        return Taken(model, **json.loads(took.read_text()))

    def on_cells(self, entry: CellEntry, corpus: Corpus, seed: int, cells: AnnData) -> CellJEPA:
        """Return the model of a method with other cells, and their labels, as its data: what fine-tuning needs."""
        from scjepa.celljepa.model import CellJEPA

        self.folder.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=self.folder, prefix=".") as folder, quiet():
            self.model(entry, corpus, seed).model.save(Path(folder) / "model")
            return CellJEPA.load(Path(folder) / "model", cells, accelerator=self.accelerator)

    def _folder(self, entry: CellEntry, corpus: Corpus, seed: int) -> Path:
        if entry.config is None:
            raise TypeError(f"The method {entry.name!r} has no configuration.")
        about = [
            chosen(entry.config, entry.parts("zero_shot")),
            {**entry.options, **entry.files()},
            seed,
            corpus.digest,
        ]
        return self.folder / f"{entry.name}.seed{seed}.{checksum(about)}"

    def _build(self, entry: CellEntry, corpus: Corpus, seed: int) -> CellJEPA:
        from scjepa.celljepa.model import CellJEPA
        from scjepa.tl import gene_modules

        if entry.config is None:
            raise TypeError(f"The method {entry.name!r} has no configuration.")
        adata, more = corpus.adata, dict[str, Any]()
        if entry.method.modules:
            given = entry.options.get("modules")
            if given is None:
                n_modules = entry.options.get("n_modules")
                gene_modules(adata, **({} if n_modules is None else {"n_modules": n_modules}))
            more["modules"] = _MODULE if given is None else given
        CellJEPA.setup_anndata(adata, labels_key=LABEL)
        return CellJEPA(adata, entry.config, seed=seed, **more)

    def _train(self, entry: CellEntry, corpus: Corpus, seed: int, folder: Path, took: Path) -> None:
        self.say(f"pretraining {entry.method.title} on {corpus.name} ({corpus.adata.n_obs:,} cells), seed {seed}")
        state = folder.with_name(f"{folder.name}.state")
        wall, cpu = time.perf_counter(), time.process_time()
        with quiet():
            model = self._build(entry, corpus, seed)
            model.train(accelerator=self.accelerator, checkpoint_dir=state, ckpt_path="last", progress_bar=False)
        with whole(took) as part:  # before the model, which is what says that training is done
            seconds = {"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu}
            part.write_text(json.dumps(seconds))
        try:
            model.save(folder)
        except FileExistsError:  # another comparison, which shares the folder, was first to make the same model
            if not (folder / "model.json").is_file():
                raise
        shutil.rmtree(state, ignore_errors=True)


def embedder(model: CellJEPA, scoring: CellScoring, pooling: str) -> Embed:
    """Return the function that embeds cells by a model, with as many of their genes as ``scoring`` says."""

    def embed(adata: AnnData) -> np.ndarray:
        with read_out_as(model, scoring), quiet():
            return model.get_latent_representation(adata, pooling=pooling)

    return embed


@contextmanager
def read_out_as(model: CellJEPA, scoring: CellScoring) -> Iterator[None]:
    """Let a model keep the genes that ``scoring`` says; its training is as before, afterwards."""
    before = model.config
    wanted = {"n_embedded": scoring.n_tokens, "kept": scoring.kept}
    changes = {name: value for name, value in wanted.items() if value is not None}
    model.config = resolve_cells(before, tokens=changes)
    try:
        yield
    finally:
        model.config = before


@contextmanager
def quiet() -> Iterator[None]:
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
    import pandas as pd

    cells = without_labels(adata.copy())
    cells.obs[LABEL] = pd.Categorical(labels)
    return cells
