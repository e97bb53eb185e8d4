"""The collection: sections of many files, prepared as shards, and what is computed of them one at a time."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from scjepa._core import keys as _keys
from scjepa._core.files import whole
from scjepa._core.options import AUTO, unknown_name
from scjepa.cohort import readout
from scjepa.cohort.prepare import (
    REFUSED,
    Outcome,
    Report,
    SectionFacts,
    items_of,
    prepared,
    raise_first,
    read_panel,
    report_of,
    tasks_of,
    write_facts,
)
from scjepa.cohort.results import write_back
from scjepa.cohort.shard import Shard
from scjepa.cohort.source import Reading
from scjepa.cohort.workers import Workers, n_workers
from scjepa.tokens import NeighborTable, Panels, TokenRule, TokenTable, Vocabulary, build_token_table

if TYPE_CHECKING:
    import os

    import pandas as pd
    from anndata import AnnData

    from scjepa.cohort.prepare import Sources

MANIFEST = "collection.json"
"""File of a prepared folder that lists its sections."""

FORMAT = 1


@dataclass(frozen=True)
class Section:
    """One section of a prepared collection; its cells are read when they are asked for.

    Attributes
    ----------
    facts
        What is known of it without reading.
    start, stop
        Rows that its cells have among all cells of the collection.
    collection
        Where it belongs.
    """

    facts: SectionFacts
    start: int
    stop: int
    collection: Collection

    @property
    def name(self) -> str:
        """What it is called."""
        return self.facts.name

    @property
    def technology(self) -> str:
        """How it was measured; where its file does not say, sections of one panel are of one technology."""
        return self.facts.technology or f"panel {self.facts.panel[:8]}"

    @property
    def n_cells(self) -> int:
        """Cells."""
        return self.facts.n_cells

    @property
    def genes(self) -> list[str]:
        """Names of the genes of its panel, in the order of its counts."""
        return self.collection.genes_of(self.facts.panel)

    @property
    def path(self) -> Path:
        """File of its shard."""
        return self.collection.folder / "shards" / f"{self.facts.id}.safetensors"

    def shard(self) -> Shard:
        """Map its counts, graph, coordinates and names of cells."""
        return Shard.load(self.path)


class Collection:
    """Sections in many files, each read once and then computed with one at a time, in memory that does not grow.

    Parameters
    ----------
    sources
        Where the cells are: files (``.h5ad``, ``.zarr``) or AnnData objects, in a list or by name; a folder; a pattern
        such as ``"study/*.h5ad"``; or a table of samples (a data frame, ``.csv`` or ``.tsv``) with a column ``"path"``,
        and if wanted ``"section"`` and ``"technology"``. A file may hold several sections.
    folder
        Where sections are prepared; made if it is not there. Several runs may share it.
    layer
        Layer of raw counts. Default: ``X``; a file whose ``X`` has fractions is refused, unless ``layer="X"`` says that
        they are meant.
    library_key
        ``obs`` column of sections. Default: ``"section"`` where a file has it, else the file is one section.
    technology_key
        ``obs`` column of technologies. Default: ``"technology"`` where a file has it, else sections of one panel are of
        one technology.
    spatial_key
        ``obsm`` key of the coordinates.
    neighbors_key
        squidpy's ``key_added`` of a spatial graph, which is taken where a file has one.
    n_neighbors
        Neighbors of each cell in the graph that is made where there is none, the same as squidpy's.
    rebuild_graph
        Make the graph also where a file has one.

    Raises
    ------
    FileNotFoundError
        If no file is named.
    KeyError
        If a table has no column ``"path"``.
    TypeError
        If something is neither a path nor AnnData.
    ValueError
        If a file is there twice, or an option is out of its range.

    Examples
    --------
    >>> collection = scjepa.Collection("study/*.h5ad", folder="prepared")
    >>> print(collection.prepare(n_jobs=2, errors="skip"))
    >>> collection.niches(n_niches=12)
    >>> collection.write_back("results")

    A model of all sections, its embeddings in a file:

    >>> model = scjepa.STJEPA(collection, preset="base")
    >>> model.train()
    >>> model.get_latent_representation(out="latent.npy")
    """

    def __init__(
        self,
        sources: Sources,
        *,
        folder: str | os.PathLike[str],
        layer: str | None = None,
        library_key: str | None = None,
        technology_key: str | None = None,
        spatial_key: str = _keys.SPATIAL,
        neighbors_key: str = _keys.SPATIAL,
        n_neighbors: int = 10,
        rebuild_graph: bool = False,
    ) -> None:
        if n_neighbors < 1:
            raise ValueError(f"n_neighbors must be positive, found {n_neighbors}.")
        self.folder = Path(folder)
        how = (layer, library_key, technology_key, spatial_key, neighbors_key, n_neighbors, rebuild_graph)
        self._how = Reading(*how)
        self._items = items_of(sources, library_key, technology_key)
        self._facts: list[SectionFacts] | None = None
        self._objects: dict[str, AnnData] = {}

    @classmethod
    def open(cls, folder: str | os.PathLike[str]) -> Self:
        """Open a folder that :meth:`prepare` finished; its list of sections is read, and no section.

        Raises
        ------
        FileNotFoundError
            If there is no such folder, or no finished one.
        ValueError
            If a newer scjepa wrote it, or the list is damaged.
        """
        folder = Path(folder)
        path = folder / MANIFEST
        if not path.is_file():
            raise FileNotFoundError(
                f"{folder} is no prepared collection: it has no {MANIFEST}. Prepare one: "
                f"scjepa.Collection(files, folder={str(folder)!r}).prepare()"
            )
        try:
            found = json.loads(path.read_text())
            facts = [SectionFacts(**one) for one in found["sections"]]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is damaged: {error}. Prepare again: what is done is kept.") from error
        if found["format"] > FORMAT:
            raise ValueError(f"{path} was written by a newer scjepa. Upgrade scjepa: pip install -U scjepa.")
        made = cls.__new__(cls)
        made.folder, made._items, made._facts, made._objects = folder, [], facts, {}
        made._how = Reading(**found["how"])
        return made

    # -- preparation ------------------------------------------------------------------------------------------------

    def prepare(self, *, n_jobs: int | None = None, errors: str = "raise") -> Report:
        """Read each section once and write its shard; those that are there are kept.

        A run that was killed is resumed by the same call. Runs that share the folder share the work.

        Parameters
        ----------
        n_jobs
            Processes, each with one thread and one section in memory; -1: as many as processors. They are started
            anew (spawn), so that a script needs ``if __name__ == "__main__":``. Default: 1.
        errors
            ``"raise"``: stop at the first section that cannot be prepared. ``"skip"``: prepare the others, and report.

        Returns
        -------
        Report
            What was made, kept, made anew and refused.

        Raises
        ------
        ValueError
            If a section cannot be prepared, by the name of its file, or none can; or ``errors`` is something else.

        Warns
        -----
        UserWarning
            If a stored graph does not fit the coordinates, by the name of the section.
        """
        if errors not in ("raise", "skip"):
            raise ValueError(f"errors must be 'raise' or 'skip', found {errors!r}.")
        if not self._items:
            raise ValueError(
                "This collection was opened from its folder, which does not know how its files are found. To prepare "
                f"it again: scjepa.Collection(files, folder={str(self.folder)!r}).prepare()"
            )
        n_jobs = n_workers(n_jobs)
        tasks, refused = tasks_of(self._items, self.folder, self._how)
        raise_first(refused, errors)
        outcomes: dict[str, Outcome] = {}
        with Workers(n_jobs) as workers:
            for task, outcome in prepared(tasks, workers):
                outcomes[task.id] = outcome
                if outcome.status == REFUSED:
                    refused[task.where] = outcome.why
                    raise_first(refused, errors)
        done = [(task, outcomes[task.id]) for task in tasks if outcomes[task.id].facts is not None]
        if not done:
            raise ValueError("No section can be prepared: " + "; ".join(refused.values()))
        self._objects = {task.id: task.of for task, _ in done if not isinstance(task.of, Path)}
        self._set([outcome.facts for _, outcome in done if outcome.facts is not None], refused)
        return report_of(done, refused)

    def replace_facts(self, facts: SectionFacts) -> None:
        """Note what is known now of a section."""
        write_facts(self[facts.name].path.with_suffix(".json"), facts)
        self._set([facts if one.facts.id == facts.id else one.facts for one in self])

    def _set(self, facts: list[SectionFacts], refused: dict[str, str] | None = None) -> None:
        """Take sections as those of the collection, and write the list of them."""
        about = {
            "format": FORMAT,
            "how": self._how.to_dict(),
            "sections": [one.to_dict() for one in facts],
            "refused": refused or {},
        }
        with whole(self.folder / MANIFEST) as draft:
            draft.write_text(json.dumps(about, indent=1))
        self._facts = facts
        for name in ("sections", "vocabulary", "panels", "adata"):
            self.__dict__.pop(name, None)

    # -- what there is ----------------------------------------------------------------------------------------------

    @cached_property
    def sections(self) -> tuple[Section, ...]:
        """The sections, in the order of the files.

        Raises
        ------
        ValueError
            If nothing was prepared yet.
        """
        if self._facts is None:
            raise ValueError("The collection is not prepared yet: collection.prepare()")
        ends = np.cumsum([0, *(one.n_cells for one in self._facts)]).tolist()
        return tuple(Section(one, ends[i], ends[i + 1], self) for i, one in enumerate(self._facts))

    def __len__(self) -> int:
        return len(self.sections)

    def __iter__(self) -> Iterator[Section]:
        return iter(self.sections)

    def __getitem__(self, which: int | str) -> Section:
        if isinstance(which, str):
            found = [one for one in self.sections if one.name == which]
            if not found:
                raise KeyError(unknown_name("section", which, [one.name for one in self]))
            return found[0]
        return self.sections[which]

    @property
    def n_cells(self) -> int:
        """Cells of all sections."""
        return self.sections[-1].stop

    def __repr__(self) -> str:
        if self._facts is None:
            return f"Collection of {len(self._items):,} files, not prepared, in {self.folder}"
        return f"Collection of {self.n_cells:,} cells in {len(self):,} sections, in {self.folder}"

    def table(self) -> pd.DataFrame:
        """Return a row for each section: its name, technology, numbers of cells, genes, counts and edges, and file."""
        import pandas as pd

        names = ("n_cells", "n_genes", "n_counts", "n_edges", "n_bytes", "path")
        rows = [{"technology": one.technology, **{n: getattr(one.facts, n) for n in names}} for one in self]
        return pd.DataFrame(rows, index=pd.Index([one.name for one in self], name="section"))

    def genes_of(self, panel: str) -> list[str]:
        """Return the names of the genes of a panel, in the order of the counts."""
        if panel not in self._genes:
            self._genes[panel] = read_panel(self.folder, panel)
        return self._genes[panel]

    @cached_property
    def _genes(self) -> dict[str, list[str]]:
        return {}

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """The genes of all panels together, sorted."""
        return Vocabulary.from_panels(self.genes_of(panel) for panel in sorted({one.facts.panel for one in self}))

    @cached_property
    def panels(self) -> Panels:
        """Which genes of the vocabulary each technology measured, all its sections alike."""
        names = tuple(sorted({one.technology for one in self}))
        measured = np.ones((len(names), len(self.vocabulary)), dtype=bool)
        for one in self:
            own = np.zeros(len(self.vocabulary), dtype=bool)
            own[self.vocabulary.ids(one.genes)] = True
            measured[names.index(one.technology)] &= own
        return Panels(names, measured, inferred=False)

    @cached_property
    def adata(self) -> AnnData:
        """All sections as one AnnData object, one after the other; its counts stay in the shards.

        ``X`` is a Dask array that is read block by block; ``obs["section"]``, ``obs["technology"]`` where there are
        such, ``obsm["spatial"]`` and ``obsp["spatial_connectivities"]`` are in memory, about 200 bytes a cell. Names of
        cells have that of their section before them. Models take the collection itself, ``scjepa.STJEPA(collection)``;
        this is what they see.
        """
        from scjepa.cohort.shard import JoinedSections

        return JoinedSections(self)

    def tables(
        self, which: int | str, rule: TokenRule | None = None, *, n_neighbors: int | None = None, **options: Any
    ) -> tuple[TokenTable, NeighborTable]:
        """Return what a spatial model reads of a section: the tokens of its cells and their neighbors.

        Parameters
        ----------
        which
            Place or name of the section.
        rule
            Which genes become tokens. Default: :class:`scjepa.tokens.TokenRule`'s own.
        n_neighbors
            Neighbors of each cell, as places in the section. Default: as many as there were made.
        options
            Passed to :func:`scjepa.tokens.build_token_table`: ``fitted``, ``token_ids``, ...

        Returns
        -------
        tuple
            Tokens, by ids of :attr:`vocabulary`, and neighbors.
        """
        section = self[which]
        shard = section.shard()
        ids = self.vocabulary.ids(section.genes)
        tokens = build_token_table(shard.counts, ids, len(self.vocabulary), rule or TokenRule(), **options)
        return tokens, shard.neighbors(n_neighbors or self._how.n_neighbors)

    # -- niches -----------------------------------------------------------------------------------------------------

    def readout(
        self,
        *,
        n_comps: int = 20,
        n_rings: int | None = None,
        own_weight: float | None = None,
        align: str = AUTO,
        n_jobs: int | None = None,
    ) -> np.ndarray:
        """Return the read-out for niches of all cells: that of :func:`scjepa.tl.niche_readout` on all in one object.

        It is computed section by section, kept in the folder and mapped. A run that was killed is resumed.

        Parameters
        ----------
        n_comps, n_rings, own_weight, align
            As there. Genes that a panel lacks are taken as its mean.
        n_jobs
            As in :meth:`prepare`.

        Returns
        -------
        numpy.ndarray
            ``(n_cells, n_dims)`` float32, mapped: the cells of the first section, then those of the second, ...

        Raises
        ------
        TypeError, ValueError
            As :class:`scjepa.tl.NicheReadout`; also if a shard is damaged or gone, by its name.
        """
        options = {"n_components": n_comps, "n_rings": n_rings, "own_weight": own_weight, "align": align}
        return readout.computed(self, options, n_workers(n_jobs)).values

    def niches(
        self,
        n_niches: int | None = None,
        *,
        method: str = AUTO,
        resolution: float = 1.0,
        key_added: str = _keys.NICHE,
        n_comps: int = 20,
        n_rings: int | None = None,
        own_weight: float | None = None,
        align: str = AUTO,
        random_state: int = 0,
        n_jobs: int | None = None,
    ) -> pd.DataFrame:
        """Find niches in all sections together; :meth:`write_back` adds them to the files.

        Parameters
        ----------
        n_niches
            Number of niches. Default: as many as Leiden finds at ``resolution``.
        method
            ``"leiden"``, ``"landmarks"``, ``"kmeans"`` or ``"gmm"``, as in :func:`scjepa.tl.niches`. ``"auto"``:
            Leiden up to 200,000 cells, landmarks beyond.
        resolution
            Leiden's resolution, where ``n_niches`` is not given.
        key_added
            What the niches are called: the column that :meth:`write_back` adds.
        n_comps, n_rings, own_weight, align
            As in :meth:`readout`.
        random_state
            Seed of the clustering.
        n_jobs
            As in :meth:`prepare`.

        Returns
        -------
        pandas.DataFrame
            Cells of each niche, sections × niches.

        Raises
        ------
        TypeError, ValueError
            As :meth:`readout` and :func:`scjepa.tl.niches`; also if k-means is not told ``n_niches``.
        """
        readout.check_niches(n_niches, method, self.n_cells)
        options = {"n_components": n_comps, "n_rings": n_rings, "own_weight": own_weight, "align": align}
        found = readout.computed(self, options, n_workers(n_jobs))
        readout.find_niches(
            self, found, key_added, n_niches, method=method, resolution=resolution, random_state=random_state
        )
        return self.niche_sizes(key_added)

    def labels(self, key: str = _keys.NICHE) -> np.ndarray:
        """Return the niche of each cell of all sections, ``(n_cells,)`` int32, mapped.

        Raises
        ------
        KeyError
            If there are none of this name, or sections were prepared anew since.
        """
        return readout.read_niches(self, key)[0]

    def niche_sizes(self, key: str = _keys.NICHE) -> pd.DataFrame:
        """Return how many cells of each section are in each niche, sections × niches."""
        import pandas as pd

        labels, about = readout.read_niches(self, key)
        counted = [np.bincount(labels[one.start : one.stop], minlength=about["n_niches"]) for one in self]
        index = pd.Index([one.name for one in self], name="section")
        return pd.DataFrame(counted, index=index, columns=np.arange(about["n_niches"]).astype(str))

    def write_back(
        self,
        folder: str | os.PathLike[str] | None = None,
        *,
        key: str | None = _keys.NICHE,
        obsm: Mapping[str, np.ndarray | str | os.PathLike[str]] | None = None,
        format: str | None = None,
        overwrite: bool = False,
        n_jobs: int | None = None,
    ) -> list[Path]:
        """Add niches and their read-out to the files, ``obs[key]`` and ``obsm["X_stjepa_niche"]``, and embeddings.

        A file is copied and the new elements are written into the copy, which takes its name in the end: all else is
        as it was, and counts are not loaded. To AnnData objects they are added in memory.

        Parameters
        ----------
        folder
            Where copies go. ``None``: the results are added to the files themselves, which takes ``overwrite``.
        key
            What the niches are called. ``None``: no niches, but what ``obsm`` says.
        obsm
            Further arrays by key, ``(n_cells, n_dims)``, or ``.npy`` files of such: what
            ``model.get_latent_representation(out=...)`` gave. Cells of sections that were left out have NaN.
        format
            ``"h5ad"`` or ``"zarr"`` of the copies; another format than that of a file is written by loading it.
            Default: each as it is.
        overwrite
            Replace what is there.
        n_jobs
            As in :meth:`prepare`.

        Returns
        -------
        list of pathlib.Path
            The files that were written.

        Raises
        ------
        FileExistsError
            If something is there, without ``overwrite``; or a column that scjepa did not write.
        KeyError
            If there are no niches of this name.
        ValueError
            If a file has other cells than when it was prepared, or an array is not of the cells of the collection.

        Examples
        --------
        >>> model.get_latent_representation(scale="cell", out="cells.npy")
        >>> collection.write_back("results", obsm={"X_stjepa_cell": "cells.npy"})
        """
        return write_back(self, folder, key, obsm or {}, format, overwrite, n_workers(n_jobs))

    def check(self) -> None:
        """Read all shards, and raise where one is not what was written; it is then prepared anew by :meth:`prepare`.

        Raises
        ------
        ValueError
            If a shard is damaged or gone.
        """
        for section in self:
            checked(section.path)

    def object_of(self, section: Section) -> AnnData:
        """Return the AnnData object that a section was read from.

        Raises
        ------
        ValueError
            If the collection was opened anew since, for objects are not kept.
        """
        if section.facts.id not in self._objects:
            raise ValueError(
                f"The section {section.name!r} came from an object in memory, which a folder does not keep. Make the "
                "collection of the objects again; what is prepared is kept."
            )
        return self._objects[section.facts.id]


def checked(path: Path) -> Shard:
    """Return a shard after reading all of it; one that is damaged is forgotten, so that it is prepared anew."""
    try:
        shard = Shard.load(path)
        shard.check()
    except ValueError:
        path.with_suffix(".json").unlink(missing_ok=True)
        raise
    return shard
