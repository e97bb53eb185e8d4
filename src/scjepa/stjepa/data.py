"""AnnData of tissues in, token tables out: where the model looks, what it checks, and what it makes of it."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from anndata import AnnData

from scjepa._core import keys as _keys
from scjepa._core.anndata import array_of, counts_of, entry_of, flags_of, missing_key, require_anndata, sparse_of
from scjepa._core.counts import iter_rows, told_of
from scjepa._core.files import digest
from scjepa._core.graph import graph_call
from scjepa._core.plain import Facts
from scjepa._core.warn import warn
from scjepa.cohort.shard import JoinedSections
from scjepa.models import setup
from scjepa.models.reference import rows_of_mean, with_new_genes
from scjepa.models.setup import codes_of, names_of
from scjepa.models.store import STATISTICS, Weights
from scjepa.stjepa.config import STJEPAConfig
from scjepa.tokens.choice import TokenSpread, choose, count_spread, describe_tokens, is_auto, left_out, same_by_count
from scjepa.tokens.config import TokenConfig
from scjepa.tokens.neighbors import (
    NeighborTable,
    SummedCounts,
    build_neighbor_table,
    check_coordinates,
    neighbor_places,
)
from scjepa.tokens.normalize import NORMALIZATIONS, FittedNormalizations, fit_normalizations
from scjepa.tokens.table import TokenTable, build_token_table, counts_digest, graph_digest, through_cache
from scjepa.tokens.vocabulary import Panels, Vocabulary, likely_cause
from scjepa.tokens.weights import gene_weights

if TYPE_CHECKING:
    from scjepa.stjepa.model import STJEPA

logger = logging.getLogger("scjepa")

_ENOUGH_CELLS = 100
"""Cells with counts from which on a new technology is normalized with statistics of its own."""

_LOOKED_AT = 2000
"""Cells that are looked at when data is set up, at most."""

_OPTIONAL = {"library_key": "one section", "technology_key": "one technology, not known to the model"}
"""Columns that a query may lack, and what its cells are taken as then."""


@dataclass(frozen=True)
class DataKeys(setup.Keys):
    """Where in an AnnData object the model finds what it reads; the arguments of ``setup_anndata``."""

    technology_key: str | None = None
    library_key: str | None = None
    spatial_key: str = _keys.SPATIAL
    neighbors_key: str = _keys.SPATIAL
    panel_key: str | None = None

    def fields(self) -> list[setup.NamedField]:
        """Return what is registered of an AnnData object, in the order in which it is checked."""
        labels = {"technology": self.technology_key, "section": self.library_key}
        graph = GraphField(self.neighbors_key, self.library_key, self.spatial_key)
        named = (setup.LabelField(name, key) for name, key in labels.items())
        return [setup.PanelField(self.layer), *named, CoordinatesField(self.spatial_key), graph]

    @classmethod
    def for_query(cls, adata: AnnData, registered: DataKeys | None, usual: DataKeys) -> DataKeys:
        """Return where to look in an AnnData object that a model was not made from.

        Parameters
        ----------
        registered
            What the user said of this object with ``setup_anndata``; it wins.
        usual
            The keys of the model's own data. A column of sections or technologies that ``adata`` does not have is taken
            as one section, or as one technology that the model does not know, with a warning; a table of panels that it
            does not have is inferred.
        """
        require_anndata(adata)
        if registered is not None:
            return registered
        setup.require_places(adata, usual)
        absent: dict[str, None] = {}
        for name, what in _OPTIONAL.items():
            key = getattr(usual, name)
            if key is not None and key not in adata.obs:
                absent[name] = None
                warn(
                    f"adata.obs has no {key!r}, so all its cells are taken as {what}. If another column tells, name it "
                    f"first: setup_anndata(adata, {name}=...)."
                )
        if usual.panel_key is not None and usual.panel_key not in adata.varm:
            absent["panel_key"] = None
        return replace(usual, **absent)  # type: ignore[arg-type]  # only keys that may be None are absent

    @classmethod
    def to_load(cls, adata: AnnData, registered: DataKeys | None, saved: DataKeys) -> DataKeys:
        """Return where to look in the data that a saved model is loaded on: where it was saved to look, if possible.

        Parameters
        ----------
        registered
            What the user said of these data with ``setup_anndata``; it tells of what is not where the model looked.
        saved
            The keys that were saved with the model.
        """
        require_anndata(adata)
        if registered is not None:
            absent = [name for name, key in saved.to_dict().items() if not _is_there(adata, name, key)]
            saved = replace(saved, **{name: getattr(registered, name) for name in absent})
        return cls.for_query(adata, None, saved)

    def mark(self, adata: AnnData) -> tuple:
        """Return a checksum of what the tables are made from, so that a changed graph or count is noticed."""
        graph = adata.uns.get(f"{self.neighbors_key}_neighbors", {}).get("params", {})
        matrices = [adata.obsp.get(f"{self.neighbors_key}_{part}") for part in ("connectivities", "distances")]
        columns = [names_of(adata, key).astype("U") for key in (self.technology_key, self.library_key) if key]
        return (
            adata.shape,
            digest(list(adata.var_names), graph.get("transform")),
            setup.counts_mark(adata, self.layer),
            *map(setup.checksum, (*matrices, array_of(adata.obsm[self.spatial_key]), *columns)),
        )


def _is_there(adata: AnnData, name: str, key: str | None) -> bool:
    if key is None:
        return True
    if name == "neighbors_key":
        return any(f"{key}_{part}" in adata.obsp for part in ("connectivities", "distances"))
    return key in {"layer": adata.layers, "spatial_key": adata.obsm, "panel_key": adata.varm}.get(name, adata.obs)


class CoordinatesField(setup.NamedField):
    """Cell coordinates in ``obsm``."""

    def __init__(self, key: str):
        super().__init__("coordinates", "obsm", key)

    def _state(self, adata: AnnData) -> dict:
        then = "Put cell coordinates there, or name their key with spatial_key=..."
        shape = entry_of(adata, "obsm", self.attr_key, then).shape
        if len(shape) != 2 or shape[1] not in (2, 3):
            raise ValueError(f"adata.obsm[{self.attr_key!r}] must have two or three columns, found shape {shape}.")
        return {"n_dimensions": int(shape[1])}


class GraphField(setup.NamedField):
    """The spatial graph that squidpy wrote to ``obsp``."""

    def __init__(self, key: str, library_key: str | None = None, spatial_key: str = _keys.SPATIAL):
        super().__init__("graph", "obsp", f"{key}_connectivities")
        self.key = key
        self.library_key = library_key
        self.spatial_key = spatial_key

    def _state(self, adata: AnnData) -> dict:
        keys = [f"{self.key}_connectivities", f"{self.key}_distances"]
        if not any(key in adata.obsp for key in keys):
            call = graph_call(adata, self.library_key, neighbors_key=self.key, spatial_key=self.spatial_key)
            then = f"Compute the spatial graph first: {call} (anndata.concat drops graphs unless pairwise=True)."
            raise missing_key("obsp", keys[0], adata.obsp, then)
        return {"keys": [key for key in keys if key in adata.obsp]}


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
        return Panels.infer(counts_of(adata, keys.layer), ids, codes, technologies, len(vocabulary))
    table = entry_of(adata, "varm", keys.panel_key, "Name a table of panels, or leave panel_key out.")
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


def tell_panels(panels: Panels, vocabulary: Vocabulary) -> None:
    """Tell of panels that were inferred, and warn of a technology that has no gene in common with any other.

    Nothing that is learned of one is then of use to the other.
    """
    if panels.inferred:
        logger.info("Panels inferred from the counts. %s", panels.describe(vocabulary))
    strangers = panels.strangers()
    if not strangers:
        return
    other = next(name for name in panels.technologies if name != strangers[0])
    names, others = (
        [vocabulary.names[i] for i in np.flatnonzero(panels.measured[panels.technologies.index(name)])]
        for name in (strangers[0], other)
    )
    warn(
        f"The technology {strangers[0]!r} ({', '.join(map(repr, names[:3])) or 'no gene'}, ...) has no gene in common "
        f"with any other, such as {other!r} ({', '.join(map(repr, others[:3])) or 'no gene'}, ...): the model learns "
        f"each by itself. {likely_cause(names, others, repr(strangers[0]), repr(other))}"
    )


def ids_of(adata: AnnData, vocabulary: Vocabulary, config: TokenConfig) -> np.ndarray:
    """Return the vocabulary id of each gene, -1 for one that the model does not know or leaves out."""
    return np.where(left_out(config, adata.var_names), -1, vocabulary.ids(adata.var_names))


def chosen_tokens(adata: AnnData, keys: DataKeys, config: TokenConfig) -> TokenConfig:
    """Return ``config`` with what is ``"auto"`` decided from ``adata``, and tell of it."""
    if not is_auto(config):
        return config
    seen: list[TokenSpread] = []

    def spread(without: np.ndarray) -> TokenSpread:
        seen.append(count_spread(counts_of(adata, keys.layer), without, **told_of(adata, keys.layer)))
        return seen[-1]

    chosen = choose(config, adata.var_names, spread)
    logger.info("Tokens %s. By count, %s.", describe_tokens(chosen, adata.var_names), seen[-1])
    return chosen


def warn_of_same_tokens(adata: AnnData, keys: DataKeys) -> None:
    """Warn where the top genes by count are nearly the same in all cells; some of the cells tell."""
    try:
        sentence = same_by_count(count_spread(counts_of(adata, keys.layer), n_cells=_LOOKED_AT))
    except (TypeError, ValueError):  # what is wrong with the counts is told where all of them are read
        return
    if sentence:
        warn(sentence)


def n_measured(adata: AnnData, keys: DataKeys, vocabulary: Vocabulary, config: TokenConfig) -> int:
    """Return the number of genes that may be tokens and that some cell has."""
    ids = ids_of(adata, vocabulary, config)
    found = np.zeros(len(ids), dtype=bool)
    for _, rows in iter_rows(counts_of(adata, keys.layer)):
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
    counts, told = _expression_of(adata, keys, neighbors if summed else None), told_of(adata, keys.layer)
    codes = codes_of(names_of(adata, keys.technology_key), technologies)
    fit = partial(fit_normalizations, counts, ids, len(vocabulary), config, **told)
    fitted = fit(groups=codes, n_groups=len(technologies))
    if weighed and neighbors is not None:  # of the cells' own counts: sums of neighbors agree whatever they are of
        sections = codes_of(names_of(adata, keys.library_key))
        fitted.weigh(gene_weights(counts_of(adata, keys.layer), ids, len(vocabulary), neighbors, sections))
    return fitted


def taken_in(facts: Facts, adata: AnnData, keys: DataKeys) -> Facts:
    """Return a model's genes, panels and normalizations with those of ``adata`` besides its own."""
    vocabulary, panels = Vocabulary(facts["vocabulary"]), Panels.from_dict(facts["panels"])
    config = STJEPAConfig.from_dict(facts["config"])
    genes = vocabulary.extended(adata.var_names)
    all_panels = panels.extended(panels_of(adata, keys, genes))
    learned = FittedNormalizations.from_arrays(
        config.tokens, facts[STATISTICS], len(vocabulary), len(panels.technologies)
    )
    if learned.to_arrays():
        further = normalizations_of(adata, keys, genes, all_panels.technologies, config.tokens)
        codes = codes_of(names_of(adata, keys.technology_key), all_panels.technologies)
        filled = np.concatenate([np.diff(rows.indptr) > 0 for _, rows in iter_rows(counts_of(adata, keys.layer))])
        enough = np.bincount(codes[filled], minlength=len(all_panels.technologies)) >= _ENOUGH_CELLS
        learned = learned.extended(further, all_panels.measured & enough[:, None])
    return {"vocabulary": list(genes.names), "panels": all_panels.to_dict(), STATISTICS: learned.to_arrays()}


def with_new_rows(facts: Facts, taken: Facts, weights: Weights) -> Weights:
    """Return a model's weights with vectors of the genes and technologies that it does not have yet."""
    weights = with_new_genes(weights, taken["vocabulary"][len(facts["vocabulary"]) :], facts["seed"])
    tables = [f"{encoder}.embedding.technology.weight" for encoder in ("context", "target")]
    objective = STJEPAConfig.from_dict(facts["config"]).objective.objective_class()
    own = (f"objective.{name}" for name in objective.technology_tables)
    tables += [name for name in own if name in weights]
    n_new = len(taken["panels"]["technologies"]) - len(facts["panels"]["technologies"])
    rows = rows_of_mean([weights[name] for name in tables], n_new)
    return {**weights, **dict(zip(tables, rows, strict=True))}


def tables_of(
    model: STJEPA, adata: AnnData, keys: DataKeys, gene_ids: np.ndarray | None = None, *, alone: bool = False
) -> CellData:
    """Tokenize the cells of ``adata`` and order their neighbors.

    Cells of a technology that the model does not know are normalized with the statistics of all that it knows.

    Parameters
    ----------
    gene_ids
        Vocabulary ids that may become tokens; ``None``: all.
    alone
        Where neighborhoods are summed: whether each cell is a neighborhood of its own, nothing added to its counts.
    """
    config, vocabulary, technologies = model.config.tokens, model.vocabulary, model.technologies
    joined = adata if isinstance(adata, JoinedSections) else None
    codes = codes_of(names_of(adata, keys.technology_key), technologies)
    ids = ids_of(adata, vocabulary, config)
    neighbors = _neighbors_of(adata, keys, config.n_neighbors)
    added = neighbors if config.summed and not alone else None

    def build() -> TokenTable:
        counts, told = _expression_of(adata, keys, added), told_of(adata, keys.layer)
        build_table = partial(build_token_table, counts, ids, len(vocabulary), config, token_ids=gene_ids, **told)
        return build_table(groups=codes, n_groups=len(technologies), fitted=model.normalizations)

    def marks() -> dict[str, str]:
        statistics = model.normalizations.to_arrays()
        sums = {} if added is None else {"summed": digest(added.index)}
        return {
            **sums,
            "vocabulary": digest(vocabulary.names),
            "options": f"L={config.n_tokens}, values={config.values}, ranks={config.ranks}, ties={config.ties}",
            "normalization": digest(*(part for name in sorted(statistics) for part in (name, statistics[name]))),
            "technologies": digest(codes),
            "genes": digest(ids, gene_ids),
            "counts": counts_digest(counts_of(adata, keys.layer)) if joined is None else joined.made_of,
        }

    sections, coordinates = codes_of(names_of(adata, keys.library_key)), _coordinates_of(adata, keys)
    needs_places = model.module.context.embedding.needs_places
    places = neighbor_places(neighbors, coordinates, sections) if needs_places else None
    tokens = through_cache(TokenTable, marks, build, None if joined is None else joined.tables)
    return CellData(tokens, neighbors, codes.clip(min=0), sections, coordinates, config.summed, places)


def _expression_of(adata: AnnData, keys: DataKeys, added: NeighborTable | None) -> Any:
    """Return what becomes tokens: the counts, or the sums of each cell and the neighbors that are ``added``."""
    counts = counts_of(adata, keys.layer)
    return counts if added is None else SummedCounts(counts, added, **told_of(adata, keys.layer))


def _coordinates_of(adata: AnnData, keys: DataKeys) -> np.ndarray:
    return np.array(check_coordinates(array_of(adata.obsm[keys.spatial_key]), adata.obs_names))


def _neighbors_of(adata: AnnData, keys: DataKeys, n_neighbors: int) -> NeighborTable:
    coordinates = _coordinates_of(adata, keys)
    params = adata.uns.get(f"{keys.neighbors_key}_neighbors", {}).get("params", {})
    two_hop = params.get("transform") == "cosine"
    matrices = (adata.obsp.get(f"{keys.neighbors_key}_{part}") for part in ("connectivities", "distances"))
    connectivities, distances = (None if m is None else sparse_of(m) for m in matrices)

    def build() -> NeighborTable:
        sections = None if keys.library_key is None else names_of(adata, keys.library_key)
        about = (connectivities, distances, coordinates, n_neighbors)
        return build_neighbor_table(*about, sections=sections, two_hop=two_hop, cell_names=adata.obs_names)

    def marks() -> dict[str, str]:
        return {
            "options": f"k={n_neighbors}, two_hop={two_hop}",
            "graph": graph_digest(connectivities, distances),
            "coordinates": digest(coordinates),
            "sections": digest(codes_of(names_of(adata, keys.library_key))),
        }

    return through_cache(NeighborTable, marks, build, adata.tables if isinstance(adata, JoinedSections) else None)
