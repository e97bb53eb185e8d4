"""Niches of one study, under the same names in the next."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scjepa._core import keys as _keys
from scjepa._core.anndata import as_embedding, entry_of, niches_of, record_of
from scjepa._core.arrays import LEAVE_OUT
from scjepa._core.checks import between
from scjepa._core.files import sum_of_facts, sum_of_file, whole
from scjepa._core.graph import sections_of
from scjepa._core.html import as_html
from scjepa._core.palette import palette
from scjepa._core.plain import whole as whole_number
from scjepa._core.warn import warn
from scjepa.atlas import _sections
from scjepa.atlas._calibration import Calibration, Tissue, calibrated
from scjepa.atlas._cells import N_NEIGHBORS, Coordinates, KeptCells, Places, step_of
from scjepa.atlas._sections import sources_of
from scjepa.tl import NicheReadout, niche_readout_of

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

    from scjepa.atlas._calibration import Calibration
    from scjepa.tl import NicheReadout


logger = logging.getLogger("scjepa")

_TOLERANCE = 0.02
"""Share of its spread by which the read-out that is there may differ from the one that is made anew."""

_FACTS = (
    *("names", "error", "sizes", "sections", "neighbors_key", "degree", "key"),
    *("colors", "markers", "composition"),
)
"""What an atlas is, beside arrays."""

_N_MARKERS = 20
"""Genes of each niche that are kept."""

FORMAT = 4
"""Of the folder; another one is refused: distances of format 1 were of single cells, format 2 knew distances alone, and
format 3 no fine crowding."""

FACTS_FILE, CELLS_FILE, READOUT_FILE, CARD_FILE = "atlas.json", "cells.safetensors", "readout.safetensors", "README.md"
_SUM = "sha256"

Facts = dict[str, Any]


class NicheAtlas:
    """Niches of one study, to be found under the same names in sections that come later.

    Clusters hold for the cells they were found in; found again with further sections, they have other numbers and
    other borders. An atlas keeps the fitted read-out of the cells (:class:`scjepa.tl.NicheReadout`), a sample of them,
    and their niches. A new section is read out in the same coordinates; the nearest kept cells vote for their niches.
    A cell is ``"unknown"`` where it lies farther from them than held-out cells of the atlas do, or where its section
    has many more cells like it than the atlas has. No labels but the niches take part. Made by :meth:`fit` and
    :meth:`load`.

    Attributes
    ----------
    names
        Names of the niches.
    colors
        Their colors, hex, by name.
    readout
        The fitted read-out.
    error
        About the share of its own cells that the atlas takes for unknown when they are held out.
    calibration
        How far held-out cells lie (``distances``), and the likeness of the parts that were held out.
    composition
        Data frame of the share of each cell type in each niche, where cell types were there; else ``None``.
    markers
        Marker genes of each niche, best first, where :func:`scjepa.tl.niche_markers` had ranked them; else empty.

    Examples
    --------
    >>> scjepa.tl.find_niches(adata, n_niches=8)
    >>> atlas = scjepa.NicheAtlas.fit(adata, names={"0": "white matter"})
    >>> atlas.save("atlas")
    >>> atlas = scjepa.NicheAtlas.load("atlas")
    >>> atlas.predict(new)
    >>> scjepa.pl.niches(new)
    """

    def __init__(
        self, coordinates: Coordinates, kept: KeptCells, calibration: Calibration, facts: Mapping[str, Any]
    ) -> None:
        self.readout = coordinates.readout
        self.calibration = calibration
        self._coordinates = coordinates
        self._kept = kept
        self._facts = dict(facts)

    # -- making -------------------------------------------------------------------------------------------------

    @classmethod
    def fit(
        cls,
        adata: AnnData,
        niche_key: str = _keys.NICHE,
        key: str = _keys.EMBEDDING_NICHE,
        *,
        names: Mapping[str, str] | Sequence[str] | None = None,
        library_key: str | None = None,
        error: float = 0.1,
        max_cells: int = 20_000,
        cell_type_key: str = _keys.CELL_TYPE,
        spatial_key: str = _keys.SPATIAL,
    ) -> NicheAtlas:
        """Make an atlas of niches that were found.

        Parameters
        ----------
        adata
            Annotated data with niches, the read-out they were found in (:func:`scjepa.tl.find_niches`,
            ``model.niches()``), and what that was made of: counts, embeddings, squidpy's graph. Nothing is written.
        niche_key
            Column of ``adata.obs`` with niches; they may have been renamed or merged. Cells without one take no part.
        key
            Key in ``adata.obsm`` of the read-out.
        names
            New names of niches by their old ones, or a name for each in the order of the categories.
        library_key
            Column of ``adata.obs`` that tells sections apart. Default: the read-out's.
        error
            About the share of cells, in (0, 1), that may be called unknown in the section that differs most, when it is
            held out. Each is read out by a read-out that is fitted anew without it; one section, by spatial block.
        max_cells
            Cells that are kept, about: the same share of each niche, and 50 of each at least.
        cell_type_key
            Column of ``adata.obs`` with cell types, for :attr:`composition`; where it is not there, there is none.
        spatial_key
            Key in ``adata.obsm`` of coordinates, which are needed where there is one section.

        Returns
        -------
        NicheAtlas
            The atlas.

        Warns
        -----
        UserWarning
            If a niche has so few cells that it cannot win a vote.

        Raises
        ------
        KeyError
            If the niches, the read-out, or what it was made of is not there.
        ValueError
            If the niches were found in something else than ``key``, the read-out is not that of the data as it is now,
            names are not one for each niche, or ``error`` or ``max_cells`` is out of its range.
        """
        niches = niches_of(adata, niche_key)
        named = _named(list(niches.categories), names)
        between(0, 1)("error", error)
        whole_number("max_cells", max_cells, least=1)
        note = record_of(adata, niche_key)
        if note.get("use_rep", key) != key:
            raise ValueError(
                f"adata.obs[{niche_key!r}] was found in adata.obsm[{note['use_rep']!r}], not in {key!r}. Name it with "
                f"key=..., or find the niches anew: scjepa.tl.niches(adata, {key!r}, key_added={niche_key!r})."
            )
        readout, how = niche_readout_of(adata, key), record_of(adata, key)
        sources, codes = sources_of(adata, readout, how.get("layer")), np.asarray(niches.codes, dtype=np.int64)
        edges, sections, _ = sections_of(adata, how["neighbors_key"], library_key or how.get("library_key"))
        tissue = Tissue(sources, edges, sections, codes)
        found, places = tissue.fitted(readout)
        _check_readout(places.readout, adata.obsm[key], key)
        kept = KeptCells.of(places, tissue.codes, len(named), max_cells)
        _warn_of_small(named, tissue.codes, niche_key)
        several = tissue.sections is not None and len(np.unique(tissue.sections.astype(str))) > 1
        coordinates = None if several else _coordinates(adata, spatial_key)
        calibration = calibrated(tissue, readout, places, len(kept), coordinates)
        calibration.threshold(error)
        facts = {
            "names": named,
            "error": float(error),
            "sizes": np.bincount(tissue.codes[tissue.codes >= 0], minlength=len(named)).tolist(),
            "sections": sorted(set(map(str, tissue.sections))) if several and tissue.sections is not None else [],
            "neighbors_key": how["neighbors_key"],
            "degree": float(tissue.edges.nnz / max(len(tissue.codes), 1)),
            "key": key,
            **_facts_of_niches(adata, niche_key, niches, named, cell_type_key),
        }
        return cls(found, kept, calibration, facts)

    # -- what it holds ------------------------------------------------------------------------------------------

    @property
    def names(self) -> list[str]:
        """Names of the niches."""
        return list(self._facts["names"])

    @property
    def colors(self) -> dict[str, str]:
        """Color of each niche, hex."""
        return dict(zip(self.names, self._facts["colors"], strict=True))

    @property
    def error(self) -> float:
        """About the share of its own cells that the atlas takes for unknown when they are held out."""
        return float(self._facts["error"])

    @property
    def n_neighbors(self) -> int:
        """Neighbors of a cell in the spatial graph of the atlas, in the mean."""
        return round(self._facts["degree"])

    @property
    def markers(self) -> dict[str, list[str]]:
        """Marker genes of each niche, best first; empty where none were ranked."""
        return {name: list(genes) for name, genes in self._facts["markers"].items()}

    @property
    def composition(self) -> pd.DataFrame | None:
        """Share of each cell type in each niche; ``None`` where there were no cell types."""
        return _as_frame(self._facts["composition"], self.names)

    def level(self, n_niches: int) -> dict[str, str]:
        """Return which coarse niche each niche is part of, where there are to be ``n_niches`` of them.

        Niches whose centers are nearest are joined first (Ward 1963, every niche weighs the same), so each level splits
        one niche of the level above. A coarse niche has the name of its largest part, which keeps it through all
        levels.

        Parameters
        ----------
        n_niches
            1 to the number of niches.

        Returns
        -------
        dict
            Name of the coarse niche by name of the niche.

        Raises
        ------
        ValueError
            If there is no such level.

        Examples
        --------
        >>> new.obs["coarse"] = new.obs["niche"].map(atlas.level(3))
        """
        number = whole_number("n_niches", n_niches, least=1)
        if number > len(self.names):
            raise ValueError(f"n_niches must lie between 1 and the {len(self.names)} of the atlas, found {number}.")
        return _level(self._kept.centers(), np.array(self._facts["sizes"]), self.names, number)

    def describe(self) -> str:
        """Return what the atlas is, in words."""
        return _in_words(self._facts, self.readout, self.calibration, len(self._kept))

    _repr_html_ = as_html

    def __repr__(self) -> str:
        return f"NicheAtlas: {self.describe()}"

    # -- predicting ---------------------------------------------------------------------------------------------

    def predict(
        self,
        adata: AnnData,
        key_added: str = _keys.NICHE,
        *,
        layer: str | None = None,
        library_key: str | None = None,
        neighbors_key: str | None = None,
        error: float | None = None,
    ) -> None:
        """Write the niches of new sections.

        Parameters
        ----------
        adata
            Annotated data with raw counts of the genes of the atlas, squidpy's graph, and the embedding that the
            read-out reads, if it reads one, made by the same model (``load_query_data`` where panels differ).
        key_added
            Column of ``adata.obs`` to write.
        layer
            Layer of raw counts. Default: ``X``.
        library_key
            Column of ``adata.obs`` that tells sections apart; each is aligned by its own mean and variance, as in the
            fit. Default: ``"section"`` if there is such a column.
        neighbors_key
            squidpy's ``key_added``. Default: that of the atlas.
        error
            Share of held-out cells that are called unknown, for this call. Default: :attr:`error`.

        Returns
        -------
        None
            Writes ``adata.obs[key_added]``, categorical of the names of the niches and ``"unknown"``, with
            ``adata.uns[f"{key_added}_colors"]``; ``adata.obs[f"{key_added}_confidence"]``, the share of the votes that
            the first niche has, float32, which is high far from all niches too;
            ``adata.obs[f"{key_added}_p_value"]``, the share of held-out cells of the atlas that are as strange or
            stranger, raised for the three comparisons: unknown cells have about ``error`` or less;
            ``adata.obsm[f"{key_added}_membership"]``, the share of the votes of each niche, float32 of shape (n_cells,
            n_niches); the read-out of these cells under its key in ``adata.obsm``; and in ``adata.uns["scjepa"]`` how
            all were made, with the coverage of genes, the share of unknown cells and the likeness of each section.

        Warns
        -----
        UserWarning
            If genes are missing, more cells are unknown than in any held-out part of the atlas, a section varies in
            other ways than the atlas, has fewer than 100 cells, or has a graph of another number of neighbors.

        Raises
        ------
        KeyError
            If the counts, an embedding or the graph is not there, with the call that makes it.
        ValueError
            If the genes that are there carry less than 70% of the read-out, the embedding is of another model, a
            value is NaN, ``error`` is out of its range, or something is there under a key that is to be written and
            scjepa did not write it, or its niches were renamed.
        """
        error = self.error if error is None else error
        between(0, 1)("error", error)
        _sections.refuse(adata, key_added, self._facts["key"])
        neighbors_key = neighbors_key or self._facts["neighbors_key"]
        graph, sections, library_key = sections_of(adata, neighbors_key, library_key)
        read = _sections.read(adata, self._coordinates, layer, graph, sections)
        strangeness = self._kept.strangeness(read.places, read.sections.astype(str), graph)
        is_unknown = self.calibration.exceeded(strangeness, error)
        p_values, votes = self.calibration.p_values(strangeness, error), self._kept.votes(read.places.readout)
        found = _sections.Found(read, votes, is_unknown, p_values)
        told = _sections.compared(found, self._kept, self.calibration, error, self._facts["degree"])
        told |= {"layer": layer, "library_key": library_key, "neighbors_key": neighbors_key, "error": float(error)}
        _sections.write(adata, key_added, self._facts, self.readout, found, told)
        sizes = adata.obs[key_added].value_counts(sort=False)
        logger.info("Niches of the atlas: %s.", ", ".join(f"{name} {size:,}" for name, size in sizes.items()))

    def written(self, key_added: str = _keys.NICHE) -> tuple[list[str], list[str]]:
        """Return the columns of ``obs``, and the keys of ``obsm``, that :meth:`predict` writes."""
        return _sections.columns_of(key_added), _sections.arrays_of(key_added, self._facts["key"])

    # -- keeping ------------------------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write the atlas to a folder of safetensors and JSON, whole or not at all, with a card (``README.md``).

        Raises
        ------
        FileExistsError
            If the folder exists and ``overwrite`` is false, or it is something else than an atlas.
        """
        from scjepa import __version__

        calibration = self.calibration
        arrays = {
            "readout": self._kept.places.readout,
            "surroundings": self._kept.places.surroundings,
            "means": self._kept.places.means,
            "codes": self._kept.codes,
            "axes": self._coordinates.axes,
            "distances": calibration.distances,
            "parts": calibration.parts,
            "cosines": calibration.cosines,
        }
        facts = {
            "scjepa": __version__,
            **self._facts,
            "n_held_out": calibration.n_cells,
            "held_out": calibration.held_out,
        }
        card = _card(self._facts, self.describe())
        _write_atlas(Path(path), facts, arrays, self.readout, card, overwrite=overwrite)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> NicheAtlas:
        """Read what :meth:`save` wrote.

        Raises
        ------
        FileNotFoundError
            If the folder, or a file of it, is not there.
        ValueError
            If a file is damaged, is of something else, or was written by another version.
        """
        facts, arrays, readout = _read_atlas(Path(path))
        places, codes = Places(*(arrays[name] for name in Places._fields)), arrays["codes"]
        kept = KeptCells(places, codes, len(facts["names"]), step_of(len(codes)))
        how = {name: arrays[name] for name in ("distances", "parts", "cosines")}
        calibration = Calibration(n_cells=facts["n_held_out"], held_out=facts["held_out"], **how)
        return cls(Coordinates(readout, arrays["axes"]), kept, calibration, {name: facts[name] for name in _FACTS})


def _named(categories: list[str], names: Mapping[str, str] | Sequence[str] | None) -> list[str]:
    """Return the names of the niches.

    Raises
    ------
    ValueError
        If they are not one for each, two are the same, or one is ``"unknown"``.
    """
    if isinstance(names, str):
        raise ValueError(f"names must be a mapping or a list with a name for each niche, found the text {names!r}.")
    if isinstance(names, Mapping):
        strange = [name for name in names if str(name) not in categories]
        if strange:
            raise ValueError(f"names has {strange[0]!r}, which is none of the niches {', '.join(categories)}.")
        new = {str(old): str(name) for old, name in names.items()}
        found = [new.get(name, name) for name in categories]
    else:
        found = categories if names is None else [str(name) for name in names]
    if len(found) != len(categories):
        raise ValueError(f"names has {len(found)} entries, and there are {len(categories)} niches.")
    twice = [name for name in found if found.count(name) > 1]
    if twice:
        raise ValueError(f"Two niches would be called {twice[0]!r}. Merge them in adata.obs, or name them apart.")
    if _keys.UNKNOWN in found:
        raise ValueError(
            f"No niche can be called {_keys.UNKNOWN!r}: that is what cells far from all niches are called."
        )
    return found


def _coordinates(adata: AnnData, spatial_key: str) -> np.ndarray:
    then = "One section is held out by spatial block: name its coordinates with spatial_key=..."
    found = entry_of(adata, "obsm", spatial_key, then)
    return as_embedding(found, adata.obs_names, "the coordinates", then=LEAVE_OUT)


def _check_readout(anew: np.ndarray, there: Any, key: str) -> None:
    there = np.asarray(there, dtype=np.float64)
    if anew.shape != there.shape or np.abs(anew - there).mean() > _TOLERANCE * max(float(there.std()), 1e-30):
        raise ValueError(
            f"adata.obsm[{key!r}] is not the read-out of these cells as they are now. Make it, and the niches, anew: "
            "scjepa.tl.find_niches(adata, ...), or model.niches(adata)."
        )


def _warn_of_small(names: list[str], codes: np.ndarray, niche_key: str) -> None:
    needed = N_NEIGHBORS // 2 + 1
    sizes = np.bincount(codes[codes >= 0], minlength=len(names))
    small = [name for name, size in zip(names, sizes, strict=True) if size < needed]
    if small:
        warn(
            f"Niches of fewer than {needed} cells cannot win a vote of {N_NEIGHBORS}: {', '.join(small)}. Merge them "
            f"with others in adata.obs[{niche_key!r}] first."
        )


# -- what it knows of its niches ---------------------------------------------------------------------------------------


def _facts_of_niches(
    adata: AnnData, niche_key: str, niches: pd.Categorical, names: Sequence[str], cell_type_key: str
) -> dict[str, Any]:
    """Return colors, marker genes and composition of niches, under their new names, in values that JSON can hold."""
    new = dict(zip(niches.categories, names, strict=True))
    composition = None
    if cell_type_key in adata.obs:
        from scjepa.tl import niche_composition

        shares = niche_composition(adata, niche_key, by=cell_type_key).shares
        composition = {
            "labels": [str(label) for label in shares.columns],
            "shares": shares.loc[list(niches.categories)].to_numpy().tolist(),
        }
    return {
        "colors": _colors(adata, niche_key, niches),
        "markers": _markers(adata, niche_key, new),
        "composition": composition,
    }


def _colors(adata: AnnData, niche_key: str, niches: pd.Categorical) -> list[str]:
    """Return the colors that are there, where there is one for each category, else those of the palette."""
    there = list(map(str, adata.uns.get(f"{niche_key}_colors", [])))
    column = adata.obs[niche_key]
    categories = list(map(str, column.cat.categories)) if hasattr(column, "cat") else []
    if len(there) < len(categories) or not set(niches.categories) <= set(categories):
        return palette(len(niches.categories))
    return [there[categories.index(name)] for name in niches.categories]


def _markers(adata: AnnData, niche_key: str, new: Mapping[str, str]) -> dict[str, list[str]]:
    """Return the best genes of each niche where they were ranked for these niches."""
    key = _keys.NICHE_MARKERS
    if key not in adata.uns or record_of(adata, key).get("niche_key") != niche_key:
        return {}
    ranked = adata.uns[key]["names"]
    found = {old: _keys.key_in(ranked.dtype.names, old) for old in new}
    return {
        new[old]: [str(gene) for gene in ranked[column][:_N_MARKERS]]
        for old, column in found.items()
        if column is not None
    }


def _as_frame(composition: Mapping[str, Any] | None, names: Sequence[str]) -> pd.DataFrame | None:
    """Return a kept composition as a data frame, niches in rows."""
    if composition is None:
        return None
    import pandas as pd

    return pd.DataFrame(composition["shares"], index=pd.Index(names, name="niche"), columns=composition["labels"])


def _level(centers: np.ndarray, sizes: np.ndarray, names: Sequence[str], number: int) -> dict[str, str]:
    """Return the coarse niche of each niche: Ward's joining of centers, named by the largest part."""
    if len(names) == 1:
        return {names[0]: names[0]}
    from scipy.cluster.hierarchy import cut_tree, linkage

    part = cut_tree(linkage(centers.astype(np.float64), "ward"), n_clusters=number)[:, 0]
    order = np.lexsort((np.arange(len(names)), -sizes))  # largest first
    largest = {code: int(order[part[order] == code][0]) for code in set(part.tolist())}
    return {name: names[largest[code]] for name, code in zip(names, part.tolist(), strict=True)}


def _in_words(facts: Mapping[str, Any], readout: NicheReadout, calibration: Calibration, n_kept: int) -> str:
    """Return what an atlas is."""
    alarms = calibration.alarms(facts["error"])
    n_sections = max(len(facts["sections"]), 1)
    return (
        f"{len(facts['names'])} niches of {sum(facts['sizes']):,} cells in {n_sections} section"
        f"{'' if n_sections == 1 else 's'}, {n_kept:,} of them kept; read-out: {readout.describe()}; unknown: a share "
        f"of {facts['error']:g} of cells held out by {calibration.held_out} ({alarms.min():.2f} to {alarms.max():.2f} "
        f"by {calibration.held_out})"
    )


def _card(facts: Mapping[str, Any], words: str) -> str:
    """Return the text that lies beside a saved atlas, for who finds the folder."""
    lines = ["# Niche atlas", "", f"{words}.", "", "| niche | cells | markers |", "| --- | --- | --- |"]
    for name, size in zip(facts["names"], facts["sizes"], strict=True):
        genes = ", ".join(facts["markers"].get(name, [])[:5])
        lines.append(f"| {name.replace('|', '/')} | {size:,} | {genes} |")
    call = 'scjepa.NicheAtlas.load("folder").predict(adata)'
    return "\n".join([*lines, "", f"`{call}`, or `scjepa predict new.h5ad --atlas folder --out predicted.h5ad`.", ""])


# -- on disk -----------------------------------------------------------------------------------------------------------


def _write_atlas(
    folder: Path, facts: Facts, arrays: Mapping[str, np.ndarray], readout: NicheReadout, card: str, *, overwrite: bool
) -> None:
    """Write an atlas to a folder.

    Raises
    ------
    FileExistsError
        If the folder exists and ``overwrite`` is false, or it is something else than an atlas.
    """
    from safetensors.numpy import save_file

    if folder.exists():
        if not overwrite:
            raise FileExistsError(f"{folder} exists. Pass overwrite=True to replace it, or name another folder.")
        if not (folder / FACTS_FILE).is_file():
            raise FileExistsError(f"{folder} is not a saved atlas, so it is not replaced. Name another folder.")
    with whole(folder) as draft:
        draft.mkdir()
        save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, draft / CELLS_FILE)
        readout.save(draft / READOUT_FILE)
        sums = {name: sum_of_file(draft / name) for name in (CELLS_FILE, READOUT_FILE)}
        told = {"atlas": "NicheAtlas", "format": FORMAT, **facts, "files": sums}
        text = json.dumps({**told, _SUM: sum_of_facts(told, _SUM)}, indent=1, ensure_ascii=False)
        (draft / FACTS_FILE).write_text(text, encoding="utf-8")
        (draft / CARD_FILE).write_text(card, encoding="utf-8")


def _read_atlas(folder: Path) -> tuple[Facts, dict[str, np.ndarray], NicheReadout]:
    """Read what :func:`_write_atlas` wrote.

    Raises
    ------
    FileNotFoundError
        If the folder or one of its files is missing.
    ValueError
        If a file is damaged, is of something else, or was written by another version.
    """
    from safetensors.numpy import load_file

    missing = [name for name in (FACTS_FILE, CELLS_FILE, READOUT_FILE) if not (folder / name).is_file()]
    if missing:
        raise FileNotFoundError(f"{folder} holds no {missing[0]}: it is not a folder that NicheAtlas.save wrote.")
    facts = _facts_in(folder / FACTS_FILE)
    for name, known in facts["files"].items():
        if sum_of_file(folder / name) != known:
            raise ValueError(
                f"{folder / name} is damaged, or belongs to another atlas: its checksum is not the one in "
                f"{FACTS_FILE}. Copy the folder again."
            )
    return facts, load_file(folder / CELLS_FILE), NicheReadout.load(folder / READOUT_FILE)


def _facts_in(file: Path) -> Facts:
    try:
        facts = json.loads(file.read_bytes())
    except ValueError as error:  # not JSON, or not even text
        raise ValueError(f"{file} is damaged: {error}.") from error
    if not isinstance(facts, dict) or facts.get("atlas") != "NicheAtlas" or not isinstance(facts.get("format"), int):
        raise ValueError(f"{file} is damaged, or of something else: an atlas has the entries 'atlas' and 'format'.")
    if facts["format"] > FORMAT:
        raise ValueError(f"{file.parent} was written by a newer scjepa ({facts.get('scjepa')}). Upgrade scjepa.")
    if facts["format"] < FORMAT:
        raise ValueError(
            f"{file.parent} was written by an older scjepa ({facts.get('scjepa')}), which measured distances "
            "otherwise. Make the atlas anew: scjepa.NicheAtlas.fit(adata)."
        )
    if facts.get(_SUM) != sum_of_facts(facts, _SUM):
        raise ValueError(
            f"{file} is damaged, or was changed by hand: its checksum does not fit. Copy the folder again."
        )
    return facts
