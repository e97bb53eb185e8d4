"""AnnData in, token tables out: the one place where the model's floor reads an AnnData object."""

from __future__ import annotations

import logging
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from anndata import AnnData
from scipy import sparse

from scjepa._core import keys as _keys
from scjepa._core.anndata import array_of, flags_of, missing_key, sparse_of, text_of
from scjepa._core.anndata import counts_of as counts_in
from scjepa._core.counts import advice_on
from scjepa._core.warn import warn
from scjepa.models.cache import counts_digest, graph_digest, through_cache
from scjepa.tokens.cache import digest
from scjepa.tokens.choice import TokenSpread, choose, count_spread, describe_tokens, is_auto, left_out, same_by_count
from scjepa.tokens.config import TokenConfig
from scjepa.tokens.counts import iter_rows
from scjepa.tokens.fitted import FittedNormalizations, fit_normalizations
from scjepa.tokens.neighborhoods import NeighborTable, build_neighbor_table, check_coordinates, neighbor_places
from scjepa.tokens.normalize import NORMALIZATIONS
from scjepa.tokens.sums import SummedCounts
from scjepa.tokens.table import TokenTable, build_token_table
from scjepa.tokens.vocabulary import Panels, Vocabulary
from scjepa.tokens.weights import gene_weights

logger = logging.getLogger("scjepa")

_LOOKED_AT = 2000
"""Cells that are looked at when data is set up, at most."""

ONE = "unnamed"
"""Name of the technology, or section, where the user named none."""


@dataclass(frozen=True)
class DataKeys:
    """Where in an AnnData object the model finds what it reads; the arguments of ``setup_anndata``."""

    layer: str | None = None
    technology_key: str | None = None
    library_key: str | None = None
    spatial_key: str = _keys.SPATIAL
    neighbors_key: str = _keys.SPATIAL
    panel_key: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class CellData:
    """The tables of one AnnData object.

    Attributes
    ----------
    tokens, neighbors
        Token and neighbor tables.
    technologies
        ``(n_cells,)`` int64 codes; a technology the model does not know has code 0, which inference does not read.
    sections
        ``(n_cells,)`` int64 codes.
    coordinates
        ``(n_cells, 2 or 3)`` float64.
    summed
        Whether the tokens are those of summed counts, so that a neighborhood is one segment.
    places
        ``(n_cells, n_neighbors, 3)`` float32 places of the neighbors, where the model reads them.
    """

    tokens: TokenTable
    neighbors: NeighborTable
    technologies: np.ndarray
    sections: np.ndarray
    coordinates: np.ndarray
    summed: bool = False
    places: np.ndarray | None = None


def counts_of(adata: AnnData, keys: DataKeys) -> Any:
    """Return the matrix of raw counts (in memory, backed or lazy)."""
    return counts_in(adata, keys.layer)


def names_of(adata: AnnData, key: str | None) -> np.ndarray:
    """Return each cell's name in ``obs[key]`` as strings, one name for all where ``key`` is ``None``."""
    if key is None:
        return np.full(adata.n_obs, ONE, dtype=object)
    return text_of(adata.obs[key])


def codes_of(names: np.ndarray, known: tuple[str, ...]) -> np.ndarray:
    """Return the position of each name in ``known``, -1 where it is not."""
    distinct, inverse = np.unique(names.astype(str), return_inverse=True)
    position = {name: code for code, name in enumerate(known)}
    return np.array([position.get(name, -1) for name in distinct], dtype=np.int64)[inverse]


def technologies_of(adata: AnnData, keys: DataKeys) -> tuple[str, ...]:
    """Return the names of the technologies in the data, sorted."""
    return tuple(sorted(set(names_of(adata, keys.technology_key))))


def panels_of(adata: AnnData, keys: DataKeys, vocabulary: Vocabulary) -> Panels:
    """Return which genes each technology measured: given in ``varm[panel_key]``, else inferred from the counts.

    Raises
    ------
    KeyError
        If ``panel_key`` is not in ``varm`` or a technology has no column there.
    """
    technologies = technologies_of(adata, keys)
    ids = vocabulary.ids(adata.var_names)
    if keys.panel_key is None:
        codes = codes_of(names_of(adata, keys.technology_key), technologies)
        return Panels.infer(counts_of(adata, keys), ids, codes, technologies, len(vocabulary))
    if keys.panel_key not in adata.varm:
        raise missing_key("varm", keys.panel_key, adata.varm, "Name a table of panels, or leave panel_key out.")
    table = adata.varm[keys.panel_key]
    columns = {name: _keys.key_in(getattr(table, "columns", ()), name) for name in technologies}
    absent = [name for name, column in columns.items() if column is None]
    if absent:
        raise KeyError(
            f"adata.varm[{keys.panel_key!r}] must be a DataFrame with a boolean column for each technology; "
            f"there is none for {absent[0]!r}."
        )
    measured = np.zeros((len(technologies), len(vocabulary)), dtype=bool)
    known = ids >= 0
    for code, name in enumerate(technologies):
        measured[code, ids[known]] = flags_of(table[columns[name]])[known]
    return Panels(technologies, measured, inferred=False)


def ids_of(adata: AnnData, vocabulary: Vocabulary, config: TokenConfig) -> np.ndarray:
    """Return the vocabulary id of each gene, -1 for one that the model does not know or leaves out."""
    return np.where(left_out(config, adata.var_names), -1, vocabulary.ids(adata.var_names))


def chosen_tokens(adata: AnnData, keys: DataKeys, config: TokenConfig) -> TokenConfig:
    """Return ``config`` with what is ``"auto"`` decided from ``adata``, and tell of it."""
    if not is_auto(config):
        return config
    seen: list[TokenSpread] = []

    def spread(without: np.ndarray) -> TokenSpread:
        told_by = {"cell_names": adata.obs_names, "gene_names": adata.var_names, "advice": advice_on(adata, keys.layer)}
        seen.append(count_spread(counts_of(adata, keys), without, **told_by))
        return seen[-1]

    chosen = choose(config, adata.var_names, spread)
    logger.info("Tokens %s. By count, %s.", describe_tokens(chosen, adata.var_names), seen[-1])
    return chosen


def warn_of_same_tokens(adata: AnnData, keys: DataKeys) -> None:
    """Warn where the top genes by count are nearly the same in all cells; some of the cells tell."""
    try:
        sentence = same_by_count(count_spread(counts_of(adata, keys), n_cells=_LOOKED_AT))
    except (TypeError, ValueError):  # what is wrong with the counts is told where all of them are read
        return
    if sentence:
        warn(sentence)


def n_measured(adata: AnnData, keys: DataKeys, vocabulary: Vocabulary, config: TokenConfig) -> int:
    """Return the number of genes that may be tokens and that some cell has."""
    ids = ids_of(adata, vocabulary, config)
    found = np.zeros(len(ids), dtype=bool)
    for _, rows in iter_rows(counts_of(adata, keys)):
        found[rows.indices] = True
    return int((found & (ids >= 0)).sum())


def normalizations_of(
    adata: AnnData, keys: DataKeys, vocabulary: Vocabulary, technologies: tuple[str, ...], config: TokenConfig
) -> FittedNormalizations:
    """Return the normalizations of ``config``, fitted on ``adata`` by technology and gene name.

    They belong to the model: every table of it is made with them, its own, a query's and one of few genes alike. Where
    neighborhoods are summed they are learned from the sums.
    """
    used = [NORMALIZATIONS[name] for name in (config.values, config.ranks)]
    weighed = any(each.common for each in used)
    summed = config.summed and any(each.needs_fit for each in used)
    neighbors = _neighbors_of(adata, keys, config.n_neighbors) if summed or weighed else None
    ids = ids_of(adata, vocabulary, config)
    fitted = fit_normalizations(
        _expression_of(adata, keys, neighbors if summed else None),
        ids,
        len(vocabulary),
        config,
        groups=codes_of(names_of(adata, keys.technology_key), technologies),
        n_groups=len(technologies),
        cell_names=adata.obs_names,
        gene_names=adata.var_names,
        advice=advice_on(adata, keys.layer),
    )
    if weighed and neighbors is not None:  # of the cells' own counts: sums of neighbors agree whatever they are of
        fitted.weigh(gene_weights(counts_of(adata, keys), ids, len(vocabulary), neighbors, _sections_of(adata, keys)))
    return fitted


def tables_of(
    adata: AnnData,
    keys: DataKeys,
    vocabulary: Vocabulary,
    technologies: tuple[str, ...],
    config: TokenConfig,
    normalizations: FittedNormalizations,
    gene_ids: np.ndarray | None = None,
    *,
    alone: bool = False,
    with_places: bool = False,
) -> CellData:
    """Tokenize the cells of ``adata`` and order their neighbors.

    Parameters
    ----------
    technologies
        Names the model knows, in the order of their codes; cells of any other are normalized with the statistics of
        all of them together.
    normalizations
        The model's.
    gene_ids
        Vocabulary ids that may become tokens; ``None``: all.
    alone
        Where neighborhoods are summed: whether each cell is a neighborhood of its own, nothing added to its counts.
    with_places
        Whether the model reads where neighbors lie.
    """
    codes = codes_of(names_of(adata, keys.technology_key), technologies)
    ids = ids_of(adata, vocabulary, config)
    neighbors = _neighbors_of(adata, keys, config.n_neighbors)
    added = neighbors if config.summed and not alone else None

    def build() -> TokenTable:
        return build_token_table(
            _expression_of(adata, keys, added),
            ids,
            len(vocabulary),
            config,
            groups=codes,
            n_groups=len(technologies),
            fitted=normalizations,
            token_ids=gene_ids,
            cell_names=adata.obs_names,
            gene_names=adata.var_names,
            advice=advice_on(adata, keys.layer),
        )

    def marks() -> dict[str, str]:
        statistics = normalizations.to_arrays()
        sums = {} if added is None else {"summed": digest(added.index)}
        return {
            **sums,
            "vocabulary": digest(vocabulary.names),
            "options": f"L={config.n_tokens}, values={config.values}, ranks={config.ranks}, ties={config.ties}",
            "normalization": digest(*(part for name in sorted(statistics) for part in (name, statistics[name]))),
            "technologies": digest(codes),
            "genes": digest(ids, gene_ids),
            "counts": counts_digest(counts_of(adata, keys)),
        }

    sections, coordinates = _sections_of(adata, keys), _coordinates_of(adata, keys)
    return CellData(
        tokens=through_cache(TokenTable, marks, build),
        neighbors=neighbors,
        technologies=codes.clip(min=0),
        sections=sections,
        coordinates=coordinates,
        summed=config.summed,
        places=neighbor_places(neighbors, coordinates, sections) if with_places else None,
    )


def _expression_of(adata: AnnData, keys: DataKeys, added: NeighborTable | None) -> Any:
    """Return what becomes tokens: the counts, or the sums of each cell and the neighbors that are ``added``."""
    counts = counts_of(adata, keys)
    return (
        counts
        if added is None
        else SummedCounts(counts, added, adata.obs_names, adata.var_names, advice_on(adata, keys.layer))
    )


def _sections_of(adata: AnnData, keys: DataKeys) -> np.ndarray:
    names = names_of(adata, keys.library_key)
    return codes_of(names, tuple(sorted(set(names))))


def _coordinates_of(adata: AnnData, keys: DataKeys) -> np.ndarray:
    return np.array(check_coordinates(array_of(adata.obsm[keys.spatial_key]), adata.obs_names))


def _neighbors_of(adata: AnnData, keys: DataKeys, n_neighbors: int) -> NeighborTable:
    coordinates = _coordinates_of(adata, keys)
    params = adata.uns.get(f"{keys.neighbors_key}_neighbors", {}).get("params", {})
    two_hop = params.get("transform") == "cosine"
    matrices = (adata.obsp.get(f"{keys.neighbors_key}_{part}") for part in ("connectivities", "distances"))
    connectivities, distances = (None if m is None else sparse_of(m) for m in matrices)

    def build() -> NeighborTable:
        return build_neighbor_table(
            connectivities,
            distances,
            coordinates,
            n_neighbors,
            sections=None if keys.library_key is None else names_of(adata, keys.library_key),
            two_hop=two_hop,
            cell_names=adata.obs_names,
        )

    def marks() -> dict[str, str]:
        return {
            "options": f"k={n_neighbors}, two_hop={two_hop}",
            "graph": graph_digest(connectivities, distances),
            "coordinates": digest(coordinates),
            "sections": digest(_sections_of(adata, keys)),
        }

    return through_cache(NeighborTable, marks, build)


def fingerprint(adata: AnnData, keys: DataKeys) -> tuple:
    """Return a checksum of what the tables are made from, so that a changed graph or count is noticed."""
    graph = adata.uns.get(f"{keys.neighbors_key}_neighbors", {}).get("params", {})
    how = [list(adata.var_names), graph.get("transform")]
    parts: list[Any] = [adata.shape, digest(*how), counts_mark(adata, keys.layer)]
    for part in ("connectivities", "distances"):
        parts.append(_checksum(adata.obsp.get(f"{keys.neighbors_key}_{part}")))
    parts.append(_checksum(array_of(adata.obsm[keys.spatial_key])))
    for key in (keys.technology_key, keys.library_key):
        parts.append(None if key is None else _checksum(names_of(adata, key).astype("U")))
    return tuple(parts)


def counts_mark(adata: AnnData, layer: str | None) -> Any:
    """Return a checksum of the counts, or the state of the file that backs them."""
    return _file_state(adata) if adata.isbacked else _checksum(counts_in(adata, layer))


def _file_state(adata: AnnData) -> tuple:
    """Return which file backs ``adata``, and its size and time of change: reading all of it would take too long."""
    state = Path(adata.filename).stat()
    return str(adata.filename), state.st_size, state.st_mtime_ns


def _checksum(matrix: Any) -> Any:
    if matrix is None:
        return None
    if sparse.issparse(matrix):
        arrays = [getattr(matrix, name) for name in ("data", "indices", "indptr") if hasattr(matrix, name)]
        return tuple(_checksum(array) for array in arrays)
    if isinstance(matrix, np.ndarray):
        return matrix.shape, zlib.crc32(np.ascontiguousarray(matrix).view(np.uint8).ravel().data)
    # Backed and lazy matrices live elsewhere; their identity has to do.
    return id(matrix), getattr(matrix, "shape", None)
