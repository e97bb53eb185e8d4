"""The collection: sections of many files, prepared as shards, and what is computed of them one at a time."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from scjepa._core import keys as _keys
from scjepa._core.anndata import record, refuse_users
from scjepa._core.files import whole
from scjepa._core.options import AUTO, unknown_name
from scjepa._core.palette import palette
from scjepa._core.stored import Additions, add, data_file
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
from scjepa.cohort.shard import Shard
from scjepa.cohort.source import Reading, Stamp, opened_source
from scjepa.cohort.workers import WorkerDiedError, Workers, n_workers
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


# -- niches and embeddings written back into the files, or copies of them, and nothing else touched --------------------


_NOTED = ("method", "resolution", "n_neighbors", "random_state", "use_rep")
"""What is noted in files of how niches were found."""

_FORMATS = {"h5ad": ".h5ad", "zarr": ".zarr"}


@dataclass(frozen=True)
class _Part:
    """What is added of the cells of one section.

    Attributes
    ----------
    shard
        Its file.
    niches
        Their niches; ``None``: none are added.
    obsm
        Their rows of arrays, by key.
    """

    shard: Path
    niches: np.ndarray | None
    obsm: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class _Writing:
    """A file, its sections, and where it is to be written to.

    Attributes
    ----------
    source, target
        The file, and the file that is made.
    parts
        Of each section what is added.
    key, note, n_niches
        What the niches are called, how they were found, and how many there are.
    notes
        What is noted of arrays, by key.
    """

    source: Path
    target: Path
    parts: tuple[_Part, ...]
    key: str | None
    note: Mapping[str, Any]
    n_niches: int
    notes: Mapping[str, Mapping[str, Any]]

    @property
    def keys(self) -> list[tuple[str, str]]:
        """Where in a file something is added."""
        return [*([("obs", self.key)] if self.key is not None else []), *(("obsm", key) for key in self.notes)]


def write_back(
    collection: Collection,
    folder: str | os.PathLike[str] | None,
    key: str | None,
    obsm: Mapping[str, np.ndarray | str | os.PathLike[str]],
    form: str | None,
    overwrite: bool,
    n_jobs: int,
) -> list[Path]:
    """Do what :meth:`Collection.write_back` says."""
    if form is not None and form not in _FORMATS:
        raise ValueError(f"format must be 'h5ad' or 'zarr', found {form!r}.")
    if folder is None and form is not None:
        raise ValueError("format= is of copies: name the folder they go to. Files that are added to keep their format.")
    arrays, notes, labels, note = _added(collection, key, obsm)
    by_source: dict[str, list[Section]] = {}
    for section in collection:
        by_source.setdefault(section.facts.path, []).append(section)
    in_memory = by_source.pop("", [])
    names = _file_names(list(by_source), form)
    writings = []
    for source, sections in by_source.items():
        target = Path(source) if folder is None else Path(folder) / names[source]
        parts = tuple(_part(one, labels, arrays) for one in sections)
        how = {"slot": "obs", **note}
        writings.append(_Writing(Path(source), target, parts, key, how, note.get("n_niches", 0), notes))
    for writing in writings:  # before anything is written
        _check_target(writing, folder is None, overwrite)
    for section in in_memory:
        for slot, name in [*(("obsm", one) for one in arrays), *([] if key is None else [("obs", key)])]:
            refuse_users(collection.object_of(section), slot, name)
    unchanged = {
        source: folder is None and Stamp.of(Path(source)).same_as(Stamp(**sections[0].facts.stamp))
        for source, sections in by_source.items()
    }
    with Workers(n_jobs) as workers:
        for writing, failed in workers.each(_write, writings):
            if isinstance(failed, WorkerDiedError):
                raise ValueError(f"{writing.source}: {failed}. Write again: files that are there are whole.")
            if unchanged[str(writing.source)]:  # but for what is added here
                _restamp(collection, by_source[str(writing.source)])
    for section in in_memory:
        _add_in_memory(collection.object_of(section), section, _part(section, labels, arrays), key, note, notes)
    return [writing.target for writing in writings]


def _added(
    collection: Collection, key: str | None, obsm: Mapping[str, np.ndarray | str | os.PathLike[str]]
) -> tuple[dict[str, np.ndarray], dict[str, dict[str, Any]], np.ndarray | None, dict[str, Any]]:
    """Return arrays of all cells and what is noted of each, and niches and what is noted of them."""
    arrays = {name: _array(collection, name, value) for name, value in obsm.items()}
    notes: dict[str, dict[str, Any]] = {name: {"slot": "obsm"} for name in arrays}
    if key is None:
        if not arrays:
            raise ValueError("There is nothing to write: name niches with key=..., or arrays with obsm={...}.")
        return arrays, notes, None, {}
    labels, about = readout.read_niches(collection, key)
    if _keys.EMBEDDING_NICHE not in arrays:
        kept = collection.folder / "readout" / about["readout"] / readout.READOUT
        arrays[_keys.EMBEDDING_NICHE] = np.load(kept, mmap_mode="r")
        notes[_keys.EMBEDDING_NICHE] = {"slot": "obsm", "use_rep": [_keys.EXPRESSION]}
    return arrays, notes, labels, {"n_niches": about["n_niches"], **{n: about[n] for n in _NOTED if n in about}}


def _array(collection: Collection, key: str, given: np.ndarray | str | os.PathLike[str]) -> np.ndarray:
    """Return an array of all cells, mapped where it is a file."""
    values = given if isinstance(given, np.ndarray) else np.load(Path(given), mmap_mode="r")
    if values.ndim != 2 or len(values) != collection.n_cells:
        raise ValueError(
            f"obsm[{key!r}] must have the shape ({collection.n_cells}, n_dims), a row for each cell of the collection, "
            f"found {values.shape}."
        )
    return values


def _part(section: Section, labels: np.ndarray | None, arrays: Mapping[str, np.ndarray]) -> _Part:
    rows = slice(section.start, section.stop)
    taken = {key: np.asarray(values[rows]) for key, values in arrays.items()}  # mapped still, until it is used
    return _Part(section.path, None if labels is None else np.asarray(labels[rows]), taken)


def _file_names(sources: list[str], form: str | None) -> dict[str, str]:
    """Return what the copy of each file is called: as the file, with its folder's name where two are called alike.

    Where that does not tell them apart, they are numbered.
    """

    def named(path: Path) -> str:
        return path.name if form is None else f"{path.stem}{_FORMATS[form]}"

    again = Counter(named(Path(source)) for source in sources)
    found = {}
    for source in sources:
        name = named(Path(source))
        found[source] = f"{Path(source).resolve().parent.name}_{name}" if again[name] > 1 else name
    again, seen = Counter(found.values()), Counter[str]()
    for source, name in found.items():
        if again[name] > 1:
            seen[name] += 1
            found[source] = f"{Path(name).stem}_{seen[name]}{Path(name).suffix}"
    return found


def _check_target(writing: _Writing, in_place: bool, overwrite: bool) -> None:
    if not writing.source.exists():
        raise ValueError(f"{writing.source} is gone, so nothing can be added to it. Put it back, or leave it out.")
    if not in_place:
        if writing.target.exists() and not overwrite:
            raise FileExistsError(f"{writing.target} exists. Replace it with overwrite=True, or name another folder.")
        if writing.target.resolve() == writing.source.resolve():
            raise ValueError(f"{writing.target} is the file itself. To add to it, name no folder.")
    elif not overwrite:
        raise FileExistsError(
            f"Without a folder results are added to {writing.source} itself. Name a folder, or pass overwrite=True."
        )
    with opened_source(writing.source) as source:
        known = source.notes()
        for slot, key in writing.keys:
            if key in source.keys(slot) and key not in known:
                call = "the niches otherwise: collection.niches(key_added=...)." if slot == "obs" else "another key."
                raise FileExistsError(f"{writing.source} has a {slot}[{key!r}] that scjepa did not write. Name {call}")


def _write(writing: _Writing) -> None:
    """Write one file: a copy with the additions, whole or not at all."""
    with opened_source(writing.source) as source:
        cells = source.cells()
    codes = np.full(len(cells), -1, dtype=np.int32)
    n_dims = {key: values.shape[1] for key, values in writing.parts[0].obsm.items()}
    obsm = {key: np.full((len(cells), n), np.nan, dtype=np.float32) for key, n in n_dims.items()}
    for part in writing.parts:
        shard = Shard.load(part.shard)
        rows, is_all = shard.rows, "rows" not in shard.arrays
        if rows[-1] >= len(cells) or (is_all and len(rows) < len(cells)) or (cells[rows] != shard.cells).any():
            raise ValueError(
                f"{writing.source} has other cells than when it was prepared. Prepare it again: collection.prepare()"
            )
        if part.niches is not None:
            codes[rows] = part.niches
        for key, values in part.obsm.items():
            obsm[key][rows] = values
    add(data_file(writing.source), additions_of(writing, codes, obsm), writing.target)


def additions_of(writing: _Writing, codes: np.ndarray, obsm: Mapping[str, np.ndarray]) -> Additions:
    """Return what is added to a file; cells of sections that were left out have no niche."""
    import pandas as pd

    notes = {key: dict(note) for key, note in writing.notes.items()}
    if writing.key is None:
        return Additions(obsm=obsm, notes=notes)
    names = np.arange(writing.n_niches).astype(str)
    column = pd.Series(pd.Categorical.from_codes(codes, categories=names))
    colors = {f"{writing.key}_colors": np.array(palette(writing.n_niches))}
    notes[writing.key] = dict(writing.note)
    return Additions(obs={writing.key: column}, obsm=obsm, uns=colors, notes=notes)


def _restamp(collection: Collection, sections: list[Section]) -> None:
    """Note what a file is now that results were added to it, so that its shards are not made anew."""
    stamp = asdict(Stamp.of(Path(sections[0].facts.path)))
    for section in sections:
        collection.replace_facts(replace(section.facts, stamp=stamp))


def _add_in_memory(
    adata: AnnData, section: Section, part: _Part, key: str | None, note: Mapping[str, Any], notes: Mapping[str, Any]
) -> None:
    import pandas as pd

    rows = section.shard().rows
    if key is not None and part.niches is not None:
        names = np.arange(note["n_niches"]).astype(str)
        codes = np.full(adata.n_obs, -1)
        if key in adata.obs:
            codes = adata.obs[key].cat.set_categories(names).cat.codes.to_numpy(copy=True)
        codes[rows] = part.niches
        adata.obs[key] = pd.Categorical.from_codes(codes, categories=names)
        adata.uns[f"{key}_colors"] = palette(len(names))
        record(adata, key, slot="obs", **note)
    for name, values in part.obsm.items():
        whole = np.full((adata.n_obs, values.shape[1]), np.nan, dtype=np.float32)
        before = adata.obsm.get(name)
        if before is not None and before.shape == whole.shape:  # of another section of the object
            whole[:] = before
        whole[rows] = values
        adata.obsm[name] = whole
        record(adata, name, **notes[name])
