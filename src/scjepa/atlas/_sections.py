"""New sections: what an atlas reads of them, what it finds in them, and whether they compare with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from scjepa._core import keys as _keys
from scjepa._core.anndata import Note, counts_of, embedding_of, record, refuse_renamed, refuse_users, require_anndata
from scjepa._core.keys import UNKNOWN
from scjepa._core.palette import MISSING
from scjepa._core.warn import warn

if TYPE_CHECKING:
    from anndata import AnnData
    from scipy.sparse import csr_matrix

    from scjepa.atlas._calibration import Calibration
    from scjepa.atlas._cells import Coordinates, KeptCells, Places
    from scjepa.tl import NicheReadout, PredictiveComponents


LEAST_COVERAGE = 0.7
"""Share of what the read-out reads that the genes of a new section must carry. On mPFC, with genes taken out at
random, 96% of the cells keep their niche at a coverage of 0.89, 91% at 0.73 and 84% at 0.53, where the ARI with labels
has fallen from 0.80 to 0.50."""

_MOST_NAMES = 5
"""Genes that a message lists, at most."""

CONFIDENCE, P_VALUE, MEMBERSHIP = "_confidence", "_p_value", "_membership"
"""What is put behind the ``obs`` column of niches for what is told beside them."""

_FEWEST_CELLS = 100
"""Cells that a section must have for its own mean and variance to be told."""

_LESS_ALIKE = 0.1
"""By how much less alike than the least alike part of the atlas a section must be, to be told of."""

_MORE_UNKNOWN = 0.1
"""By how much the share of unknown cells must exceed that of the worst held-out part of the atlas, to be told of."""

_DEGREE = 1.5
"""Ratio of the numbers of neighbors from which on it is told of."""


def components_of(readout: NicheReadout) -> dict[str, PredictiveComponents]:
    """Return the components of each source of a read-out."""
    return dict(zip(readout.sources_, readout.components_, strict=True))


def sources_of(adata: AnnData, readout: NicheReadout, layer: str | None) -> dict[str, Any]:
    """Return what a read-out reads, by name: counts as an AnnData object under ``"X"``, embeddings under their keys.

    Raises
    ------
    KeyError
        If an embedding, or the layer, is not there, with the call that makes it.
    ValueError
        If an embedding is of another width than that of the fit, or two genes have one name.
    """
    require_anndata(adata)
    found = {name: _source(adata, name, layer) for name in readout.sources_}
    for name, components in components_of(readout).items():
        if name != _keys.EXPRESSION and found[name].shape[1] != components.n_features_in_:
            raise ValueError(
                f"adata.obsm[{name!r}] has {found[name].shape[1]} dimensions, and the atlas was fitted on "
                f"{components.n_features_in_}: this is the embedding of another model. Embed these cells with the "
                f"model of the atlas: adata.obsm[{name!r}] = model.get_latent_representation(adata, scale='cell')."
            )
    return found


def _source(adata: AnnData, name: str, layer: str | None) -> Any:
    if name != _keys.EXPRESSION:
        return embedding_of(adata, name)
    counts = counts_of(adata, layer)
    twice = adata.var_names[adata.var_names.duplicated()]
    if len(twice):
        raise ValueError(
            f"{len(twice):,} names of genes are there more than once ({listed(list(map(str, twice.unique())))}), so it "
            "is not known which is the atlas'. Name them apart: adata.var_names_make_unique()."
        )
    if layer is None:
        return adata
    from anndata import AnnData

    return AnnData(counts, obs=adata.obs[[]], var=adata.var[[]])


def some_cells(sources: Mapping[str, Any], rows: np.ndarray) -> dict[str, Any]:
    """Return the sources of some cells."""
    return {name: values[rows] for name, values in sources.items()}


def missing_genes(sources: Mapping[str, Any], readout: NicheReadout) -> tuple[list[str], float]:
    """Return the genes of the fit that are not there, and the share of the read-out that the others carry.

    The share is that of the squared weights of genes in the components of expression; 1 where genes have no names.
    """
    components = components_of(readout).get(_keys.EXPRESSION)
    names = getattr(components, "feature_names_in_", None)
    if components is None or names is None:
        return [], 1.0
    there = np.isin(names.astype(str), sources[_keys.EXPRESSION].var_names.astype(str))
    weights = np.square(components.loadings_).sum(axis=1)
    return [str(name) for name in names[~there]], float(weights[there].sum() / weights.sum())


def with_genes(sources: Mapping[str, Any], missing: list[str]) -> dict[str, Any]:
    """Return the sources with genes that are not there as zeros, which z-scores within a section make their mean."""
    from anndata import AnnData
    from scipy.sparse import csr_matrix, hstack

    cells = sources[_keys.EXPRESSION]
    counts = csr_matrix(cells.to_memory().X if cells.isbacked else cells.X)
    padded = hstack([counts, csr_matrix((cells.n_obs, len(missing)), dtype=counts.dtype)], format="csr")
    filled = AnnData(padded, obs=cells.obs[[]])
    filled.var_names = [*map(str, cells.var_names), *missing]
    return {**sources, _keys.EXPRESSION: filled}


def refuse_few_genes(adata: AnnData, readout: NicheReadout, missing: list[str], coverage: float) -> None:
    """Raise where too little of what the read-out reads is there.

    Raises
    ------
    ValueError
        With genes of both sides, and the next call.
    """
    if coverage >= LEAST_COVERAGE and (not missing or readout.align_ != "none"):
        return
    total = components_of(readout)[_keys.EXPRESSION].n_features_in_
    here = ", ".join(map(repr, adata.var_names[:_MOST_NAMES]))
    then = "Gene names must be of one kind and one species; for another panel, fit an atlas on the genes both have."
    if coverage >= LEAST_COVERAGE:
        then = "The sections of this atlas were not aligned (align='none'), so a missing gene has no neutral value."
    raise ValueError(
        f"{len(missing):,} of the {total:,} genes of the atlas are not there, and the others carry {coverage:.0%} of "
        f"what it reads ({LEAST_COVERAGE:.0%} is needed). Missing: {listed(missing)}; here: {here}, ... {then}"
    )


def listed(names: list[str]) -> str:
    """Return the first names, for a message."""
    return ", ".join(map(repr, names[:_MOST_NAMES])) + (", ..." if len(names) > _MOST_NAMES else "")


def covariance_cosine(one: np.ndarray, other: np.ndarray) -> float:
    """Return the cosine between the covariances of two sets of cells in one read-out: 1 where they consist alike."""
    first, second = (np.cov(values.astype(np.float64).T).ravel() for values in (one, other))
    size = np.linalg.norm(first) * np.linalg.norm(second)
    return float(first @ second / size) if size > 0 else 0.0


# -- what is found of them ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Read:
    """New cells in the read-out of an atlas.

    Attributes
    ----------
    places
        Where they are.
    sections
        ``(n_cells,)`` names of their sections.
    missing
        Genes of the atlas that are not there.
    coverage
        Share of what the read-out reads that the other genes carry.
    degree
        Mean number of neighbors.
    """

    places: Places
    sections: np.ndarray
    missing: list[str]
    coverage: float
    degree: float


@dataclass(frozen=True)
class Found:
    """What an atlas tells of cells.

    Attributes
    ----------
    read
        The cells in its read-out.
    votes
        ``(n_cells, n_niches)`` share of the votes.
    is_unknown
        ``(n_cells,)`` bool.
    p_values
        ``(n_cells,)`` share of held-out cells that lie as far or farther.
    """

    read: Read
    votes: np.ndarray
    is_unknown: np.ndarray
    p_values: np.ndarray


def columns_of(key_added: str) -> list[str]:
    """Return the columns of ``obs`` that are written."""
    return [key_added, f"{key_added}{CONFIDENCE}", f"{key_added}{P_VALUE}"]


def arrays_of(key_added: str, key: str) -> list[str]:
    """Return the keys of ``obsm`` that are written; ``key`` is that of the read-out."""
    return [f"{key_added}{MEMBERSHIP}", key]


def refuse(adata: AnnData, key_added: str, key: str) -> None:
    """Raise where what is to be written is the user's, or niches that they renamed."""
    for column in columns_of(key_added):
        refuse_users(adata, "obs", column)
    for array in arrays_of(key_added, key):
        refuse_users(adata, "obsm", array)
    refuse_renamed(adata, key_added)


def read(
    adata: AnnData, coordinates: Coordinates, layer: str | None, graph: csr_matrix, sections: np.ndarray | None
) -> Read:
    """Read out cells as of new sections; genes that are missing take part with the mean of each section."""
    readout = coordinates.readout
    sources = sources_of(adata, readout, layer)
    missing, coverage = missing_genes(sources, readout)
    refuse_few_genes(adata, readout, missing, coverage)
    if missing:
        sources = with_genes(sources, missing)
    names = np.full(adata.n_obs, "all", dtype=object) if sections is None else sections
    known = {str(name) for components in readout.components_ for name in components.groups_}
    new = {name: _apart(str(name), known) for name in set(names)}
    groups = np.array([new[name] for name in names], dtype=object)
    places = coordinates.of(sources, graph, groups, missing)
    return Read(places, names, missing, coverage, float(graph.nnz / max(adata.n_obs, 1)))


def _apart(name: str, known: set[str]) -> str:
    """Return a name that no section of the fit has, so that a section is aligned by its own mean and variance."""
    return name if name not in known else _apart(f"{name}, new", known)


def compared(found: Found, kept: KeptCells, calibration: Calibration, error: float, degree: float) -> dict[str, Any]:
    """Return how the new sections compare with the atlas, and warn where they do not.

    Returns
    -------
    dict
        ``coverage`` and ``n_missing`` of genes; by section (``sections``) the share of ``unknown`` cells and the
        ``likeness`` of its covariance to that of the atlas.
    """
    read, names = found.read, sorted(set(map(str, found.read.sections)))
    own = {name: np.flatnonzero(read.sections.astype(str) == name) for name in names}
    unknown = np.array([found.is_unknown[rows].mean() for rows in own.values()])
    here, there = read.places.surroundings, kept.places.surroundings
    likeness = np.array([covariance_cosine(there, here[rows]) if len(rows) > 1 else np.nan for rows in own.values()])
    _warn_of_genes(read)
    _warn_of_graph(read.degree, degree)
    for name, share, alike in zip(names, unknown, likeness, strict=True):
        _warn_of_section(name, len(own[name]), share, alike, calibration, error)
    found_of = {"sections": names, "unknown": unknown, "likeness": likeness}
    return {"coverage": read.coverage, "n_missing": len(read.missing), **found_of}


def _warn_of_genes(read: Read) -> None:
    if read.missing:
        warn(
            f"{len(read.missing):,} genes of the atlas are not there ({listed(read.missing)}) and count as their mean; "
            f"the others carry {read.coverage:.0%} of what the atlas reads."
        )


def _warn_of_graph(degree: float, known: float) -> None:
    if not 1 / _DEGREE <= degree / max(known, 1e-9) <= _DEGREE:
        warn(
            f"Cells have {degree:.1f} neighbors in the spatial graph, and had {known:.1f} in that of the atlas: rings "
            "around them are of another size. Compute the graph as that of the atlas was."
        )


def _warn_of_section(
    name: str, n_cells: int, unknown: float, likeness: float, calibration: Calibration, error: float
) -> None:
    reasons = []
    worst = float(calibration.alarms(error).max())
    if unknown > worst + _MORE_UNKNOWN:
        reasons.append(
            f"{unknown:.0%} of its cells are unknown, of the atlas' own held-out {calibration.held_out}s {worst:.0%} "
            "at most"
        )
    least = float(calibration.cosines.min())
    if likeness < least - _LESS_ALIKE:
        reasons.append(
            f"its cells vary in other ways (likeness {likeness:.2f}, of held-out {calibration.held_out}s {least:.2f} "
            "or more)"
        )
    if n_cells < _FEWEST_CELLS:
        reasons.append(f"it has {n_cells} cells, too few for a mean and variance of its own")
    if reasons:
        warn(
            f"The section {name!r} may not compare with the atlas: {'; '.join(reasons)}. Look whether tissue, species, "
            "counts and embedding are those of the atlas before its niches are read."
        )


def write(
    adata: AnnData, key_added: str, facts: Mapping[str, Any], readout: NicheReadout, found: Found, how: Note
) -> None:
    """Write niches, their colors, confidence, p-values, membership and the read-out, and note how all was made."""
    import pandas as pd

    key, names = facts["key"], list(facts["names"])
    codes = np.where(found.is_unknown, len(names), found.votes.argmax(axis=1))
    adata.obs[key_added] = pd.Categorical.from_codes(codes, categories=[*names, UNKNOWN])
    adata.uns[f"{key_added}_colors"] = [*facts["colors"], MISSING]
    adata.obs[f"{key_added}{CONFIDENCE}"] = found.votes.max(axis=1)
    adata.obs[f"{key_added}{P_VALUE}"] = found.p_values
    adata.obsm[f"{key_added}{MEMBERSHIP}"] = found.votes
    adata.obsm[key] = found.read.places.readout
    places = {name: how[name] for name in ("layer", "library_key", "neighbors_key")}
    readout.note_in(adata, key, use_rep=list(readout.sources_), chosen=readout.describe(), **places)
    record(adata, key_added, slot="obs", by="NicheAtlas", use_rep=key, names=names, n_niches=len(names), **how)
    for suffix, slot in ((CONFIDENCE, "obs"), (P_VALUE, "obs"), (MEMBERSHIP, "obsm")):
        record(adata, f"{key_added}{suffix}", slot=slot, by="NicheAtlas", niche_key=key_added)
