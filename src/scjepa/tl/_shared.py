"""Components that technologies of different panels have in common, in closed form."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from scjepa._core import keys as _keys
from scjepa._core.anndata import Note, counts_of, entry_of, flags_of, names_of, refuse_users
from scjepa._core.arrays import positive
from scjepa._core.checks import between
from scjepa._core.counts import TARGET_SUM, iter_rows
from scjepa._core.graph import edges_of, sections_of
from scjepa._core.neighbors import neighbor_search
from scjepa.tl._aggregate import hops_of
from scjepa.tl._kept import Kept
from scjepa.tl._moments import Features, groups_in, power
from scjepa.tl._niche_estimator import NicheReadout
from scjepa.tl._predictive import PredictiveComponents

if TYPE_CHECKING:
    from anndata import AnnData

    from scjepa._core.arrays import Labels

logger = logging.getLogger("scjepa")

_FEWEST_GENES = 3
"""Genes that two technologies must share for their neighborhoods to be compared by them."""

_FEWEST_ANCHORS = 50
"""Pairs of like neighborhoods below which nothing is said of what technologies have in common."""

_NO_TABLE = "Name a table of all technologies, or leave panel_key out."

ByTechnology = Mapping[str, object]


class SharedComponents(Kept, BaseEstimator):
    r"""Components of each technology's own genes, in the directions that technologies have in common.

    Of the panels of two technologies few genes agree, and the rest of each panel is lost where only those are read.
    Here the genes in common say no more than which neighborhoods correspond:

    1. :class:`PredictiveComponents` of each technology by itself, of all its genes.
    2. Anchors: cells of one technology and of another whose neighborhoods are among each other's nearest, at first by
       the :class:`NicheReadout` of the genes in common.
    3. With :math:`y_t` the mean of the components over the neighbors of a cell of technology :math:`t`, canonical
       correlation of :math:`y_s` and :math:`y_t` over the anchors of :math:`s` and :math:`t` gives directions in
       common; for more than two technologies its generalization by one eigenproblem (Kettenring 1971, MAXVAR):
       :math:`M_{st} = W_s C_{st} W_t` with :math:`W_t = (C_{tt} + \epsilon I)^{-1/2}`, and 0 for :math:`s = t`. A
       component is multiplied by its correlation.
    4. The read-out of these components is where the next anchors are looked for: 2 and 3 again.

    No labels take part. What only one technology sees has no correlate, and is lost.

    Parameters
    ----------
    n_components
        Components of each technology, and in common.
    n_anchors
        Nearest neighborhoods of the other technology among which an anchor must be, from both sides.
    n_iterations
        Times that anchors are looked for. More mix technologies further.
    ridge
        :math:`\epsilon` as a share of the mean variance.

    Attributes
    ----------
    technologies_
        ``(n_technologies,)`` names, sorted.
    components_
        Fitted components of each.
    centers_, maps_
        ``(n_technologies, n_components)`` and ``(n_technologies, n_components, n_components)``: what is in common are
        ``(components - center) @ map``.
    correlations_
        ``(n_components,)`` mean correlations at the anchors, falling. They are high by choice of the anchors: no test.
    n_anchors_
        ``(n_iterations, n_pairs)`` anchors of each pair of technologies, in the order of
        ``itertools.combinations(technologies_, 2)``.
    n_shared_
        ``(n_pairs,)`` genes that the panels of each pair have in common.

    Examples
    --------
    >>> shared = scjepa.tl.SharedComponents()
    >>> graphs = {name: one.obsp["spatial_connectivities"] for name, one in data.items()}
    >>> found = shared.fit_transform({"STARmap": starmap, "osmFISH": osmfish}, graphs)
    """

    def __init__(
        self, n_components: int = 20, *, n_anchors: int = 20, n_iterations: int = 3, ridge: float = 0.1
    ) -> None:
        self.n_components = n_components
        self.n_anchors = n_anchors
        self.n_iterations = n_iterations
        self.ridge = ridge

    def fit(
        self, data: ByTechnology, graphs: ByTechnology, groups: Mapping[str, Labels] | None = None
    ) -> SharedComponents:
        """Find what technologies have in common; see :meth:`fit_transform`."""
        self.fit_transform(data, graphs, groups)
        return self

    def fit_transform(
        self, data: ByTechnology, graphs: ByTechnology, groups: Mapping[str, Labels] | None = None
    ) -> dict[str, np.ndarray]:
        """Return the components in common of the cells of each technology.

        Parameters
        ----------
        data
            Raw counts of the genes of its panel, by technology: AnnData objects or data frames, cells × genes. Genes
            are matched by name.
        graphs
            Spatial graph of each technology, as squidpy's ``obsp["spatial_connectivities"]``.
        groups
            Section of each cell, by technology; ``None``: one section each.

        Returns
        -------
        dict
            ``(n_cells, n_components)`` float32 by technology.

        Raises
        ------
        TypeError
            If an option is not an integer, or genes have no names.
        ValueError
            If there are not two technologies, no chain of genes in common joins them, too few neighborhoods
            correspond, an option is out of its range, or :class:`PredictiveComponents` cannot be fitted.
        """
        self._check_options()
        names = sorted(data)
        if len(names) < 2:
            raise ValueError(f"Components in common need two technologies or more, found {', '.join(names) or 'none'}.")
        features = {name: Features.of(data[name], TARGET_SUM) for name in names}
        edges = {name: edges_of(graphs[name]) for name in names}
        sections = {name: None if groups is None else groups[name] for name in names}
        self.technologies_ = np.array(names, dtype=object)
        self.components_, own = [], []
        for name in names:
            components = PredictiveComponents(self.n_components, target_sum=TARGET_SUM)
            own.append(components.fit_transform(features[name], edges[name], sections[name]))
            self.components_.append(components)
        width = min(values.shape[1] for values in own)
        own = [values[:, :width] for values in own]
        around = [hops_of(values, edges[name], 1)[1] for name, values in zip(names, own, strict=True)]
        self.centers_ = np.array([values.mean(axis=0, dtype=np.float64) for values in own])
        pairs = list(combinations(range(len(names)), 2))
        spaces = self._first_spaces(features, edges, sections, pairs)
        every = _stacked_graph(list(edges.values()))
        labels = _stacked_groups(names, sections, [len(values) for values in own])
        counted = []
        for iteration in range(self.n_iterations):
            anchors = {pair: self._anchors(*space) for pair, space in spaces.items()}
            counted.append([len(anchors[pair][0]) if pair in anchors else 0 for pair in pairs])
            self._check_anchors(names, anchors)
            self.maps_, self.correlations_ = _in_common(around, anchors, self.ridge)
            found = [self._mapped(number, values) for number, values in enumerate(own)]
            if iteration + 1 < self.n_iterations:
                readout = NicheReadout(self.n_components, align="covariance")
                space = readout.fit_transform({"shared": np.concatenate(found)}, every, labels)
                parts = np.split(space, np.cumsum([len(values) for values in own])[:-1])
                spaces = {(first, second): (parts[first], parts[second]) for first, second in pairs}
        self.n_anchors_ = np.array(counted)
        return dict(zip(names, found, strict=True))

    def transform(self, data: ByTechnology, groups: Mapping[str, Labels] | None = None) -> dict[str, np.ndarray]:
        """Return the components in common of other cells of technologies of the fit.

        Parameters
        ----------
        data, groups
            As in :meth:`fit_transform`; one technology is enough. Sections are met as in
            :meth:`PredictiveComponents.transform`.

        Raises
        ------
        KeyError
            If a technology took no part in the fit, or a gene of its panel is not there.
        """
        check_is_fitted(self, "maps_")
        position = {name: number for number, name in enumerate(self.technologies_)}
        found = {}
        for name, values in data.items():
            if name not in position:
                raise KeyError(
                    f"The technology {name!r} took no part in the fit, which was of {', '.join(position)}. Fit anew "
                    "with it."
                )
            number = position[name]
            own = self.components_[number].transform(values, None if groups is None else groups[name])
            found[name] = self._mapped(number, own[:, : self.maps_.shape[1]])
        return found

    # -- steps --------------------------------------------------------------------------------------------------

    def _first_spaces(
        self,
        features: Mapping[str, Features],
        edges: Mapping[str, sparse.csr_matrix],
        sections: Mapping[str, Labels | None],
        pairs: Sequence[tuple[int, int]],
    ) -> dict[tuple[int, int], tuple[np.ndarray, np.ndarray]]:
        """Return read-outs of the genes in common of each pair of technologies that has enough of them."""
        spaces, shared, names = {}, [], list(features)
        for pair in pairs:
            both = [names[number] for number in pair]
            genes = _genes_in_common(both, [features[name] for name in both])
            shared.append(len(genes))
            if len(genes) >= _FEWEST_GENES:
                values = [_log_normalized(features[name], genes) for name in both]
                readout = NicheReadout(self.n_components, align="covariance").fit_transform(
                    {"genes": np.concatenate(values)},
                    _stacked_graph([edges[name] for name in both]),
                    _stacked_groups(both, sections, [len(one) for one in values]),
                )
                spaces[pair] = (readout[: len(values[0])], readout[len(values[0]) :])
        self.n_shared_ = np.array(shared)
        _require_joined(names, pairs, spaces, self.n_shared_)
        return spaces

    def _anchors(self, first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return cells of two technologies, in pairs, whose neighborhoods are among each other's nearest."""
        there = _nearest_of(first, second, self.n_anchors)
        back = _nearest_of(second, first, self.n_anchors)
        rows, columns = there.multiply(back.T).nonzero()
        return rows, columns

    def _mapped(self, number: int, own: np.ndarray) -> np.ndarray:
        found: np.ndarray = (own - self.centers_[number]) @ self.maps_[number]
        return found.astype(np.float32)

    def _check_anchors(self, names: Sequence[str], anchors: Mapping[tuple[int, int], tuple]) -> None:
        for (first, second), found in anchors.items():
            if len(found[0]) < _FEWEST_ANCHORS:
                raise ValueError(
                    f"Only {len(found[0])} neighborhoods of {names[first]!r} and {names[second]!r} correspond; "
                    f"{_FEWEST_ANCHORS} are needed. Take more cells, a larger n_anchors, or leave one of them out."
                )

    def _check_options(self) -> None:
        self._check_whole("n_components", "n_anchors", "n_iterations")
        between(0, np.inf)("ridge", self.ridge)

    def _restored(self, name: str, value: object) -> object:
        if name == "components_" and isinstance(value, Mapping):
            return [PredictiveComponents.from_dict(value[str(number)]) for number in range(len(value))]
        return super()._restored(name, value)


def _genes_in_common(names: Sequence[str], features: Sequence[Features]) -> list[str]:
    for name, one in zip(names, features, strict=True):
        if one.names is None:
            raise TypeError(
                f"The genes of {name!r} have no names, or two have one name: give an AnnData object or a data frame "
                "with unique gene names (adata.var_names_make_unique())."
            )
    there = set(features[1].names)  # type: ignore[arg-type]
    return sorted(gene for gene in features[0].names if gene in there)  # type: ignore[union-attr]


def _log_normalized(features: Features, genes: Sequence[str]) -> np.ndarray:
    """Return log-normalized counts of some genes, ``(n_cells, n_genes)``; the others have no part in a cell's total."""
    taken = features.taken(np.array(genes, dtype=object), len(genes))
    return np.concatenate([chunk.toarray() for _, chunk in taken.chunks()])


def _stacked_graph(edges: Sequence[sparse.csr_matrix]) -> sparse.csr_matrix:
    return sparse.csr_matrix(sparse.block_diag(edges, format="csr"))


def _stacked_groups(names: Sequence[str], groups: Mapping[str, Labels | None], sizes: Sequence[int]) -> np.ndarray:
    """Return the section of each cell, told apart between technologies."""
    found = []
    for number, (name, size) in enumerate(zip(names, sizes, strict=True)):
        _, codes = groups_in(groups[name], size)
        found.append(np.char.add(f"{number}/", codes.astype(str)))
    return np.concatenate(found)


def _nearest_of(queries: np.ndarray, reference: np.ndarray, n_neighbors: int) -> sparse.csr_matrix:
    """Return which rows of ``reference`` are the nearest of each query, (n_queries, n_reference) bool."""
    n_neighbors = min(n_neighbors, len(reference))
    columns = neighbor_search(reference, n_neighbors)(queries).ravel()
    starts = np.arange(0, len(columns) + 1, n_neighbors)
    return sparse.csr_matrix((np.ones(len(columns), bool), columns, starts), (len(queries), len(reference)))


def _in_common(
    around: Sequence[np.ndarray], anchors: Mapping[tuple[int, int], tuple[np.ndarray, np.ndarray]], ridge: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return the map of each technology to the directions in common, and their correlations, falling."""
    n_technologies, width = len(around), around[0].shape[1]
    rows = [
        np.concatenate([cells[pair.index(number)] for pair, cells in anchors.items() if number in pair])
        for number in range(n_technologies)
    ]
    means = [values[of].mean(axis=0, dtype=np.float64) for values, of in zip(around, rows, strict=True)]
    roots = []
    for values, of, mean in zip(around, rows, means, strict=True):
        given = values[of] - mean
        covariance = given.T @ given / len(given)
        roots.append(power(covariance + ridge * np.trace(covariance) / width * np.eye(width), -0.5))
    joint = np.zeros((n_technologies, width, n_technologies, width))
    for (first, second), (one, other) in anchors.items():
        across = (around[first][one] - means[first]).T @ (around[second][other] - means[second]) / len(one)
        joint[first, :, second] = roots[first] @ across @ roots[second]
        joint[second, :, first] = joint[first, :, second].T
    values, vectors = np.linalg.eigh(joint.reshape(n_technologies * width, -1))
    correlations = np.maximum(values[::-1][:width] / (n_technologies - 1), 0)
    vectors = positive(vectors[:, ::-1][:, :width]).reshape(n_technologies, width, width)
    scaled = vectors * np.sqrt(n_technologies) * correlations
    return np.array([root @ own for root, own in zip(roots, scaled, strict=True)]), correlations


def _require_joined(
    names: Sequence[str], pairs: Sequence[tuple[int, int]], there: Mapping[tuple[int, int], object], shared: np.ndarray
) -> None:
    joins = sparse.coo_matrix(
        (np.ones(len(there)), ([a for a, _ in there], [b for _, b in there])), (len(names), len(names))
    )
    if sparse.csgraph.connected_components(joins, directed=False)[0] > 1:
        counts = ", ".join(
            f"{names[a]!r} and {names[b]!r} {count:,}" for (a, b), count in zip(pairs, shared, strict=True)
        )
        raise ValueError(
            f"No chain of {_FEWEST_GENES} genes or more in common joins all technologies; they share {counts}. Name "
            "genes alike (case, Ensembl ids), or leave a technology out."
        )


# -- of the cells of an AnnData object -----------------------------------------------------------------------------


def shared_components(
    adata: AnnData,
    technology_key: str = _keys.TECHNOLOGY,
    *,
    layer: str | None = None,
    library_key: str | None = None,
    panel_key: str | None = None,
    n_comps: int = 20,
    n_anchors: int = 20,
    n_iterations: int = 3,
    neighbors_key: str = _keys.SPATIAL,
    key_added: str = _keys.SHARED,
) -> None:
    """Write components that technologies of different panels have in common, in closed form.

    All genes of each technology take part, also where few are in all panels; see :class:`SharedComponents`. Niches of
    all technologies are found in the read-out of these components. It takes seconds, and no model.

    Parameters
    ----------
    adata
        Annotated data of all technologies with raw counts and the graph of squidpy, as :func:`scjepa.concat` makes it:
        genes that a technology did not measure are 0 in its cells.
    technology_key
        Column of ``adata.obs`` with the technology of each cell.
    layer
        Layer of raw counts. Default: ``X``.
    library_key
        Column of ``adata.obs`` that tells sections apart. Default: ``"section"`` if there is such a column.
    panel_key
        Data frame in ``adata.varm``, a boolean column for each technology: the genes that it measured. Default:
        ``"panel"`` where it is there, else the genes of which a technology has a count.
    n_comps
        Components.
    n_anchors, n_iterations
        See :class:`SharedComponents`. More iterations mix technologies further.
    neighbors_key
        squidpy's ``key_added``: the graph is ``obsp[f"{neighbors_key}_connectivities"]``.
    key_added
        Key of what is written.

    Returns
    -------
    None
        Writes ``adata.obsm[key_added]``, float32 of shape (n_cells, n_comps), and ``adata.uns["scjepa"][key_added]``:
        how it was made, and the fitted object (``"fitted"``, see :func:`shared_components_of`).

    Raises
    ------
    KeyError
        If a column, ``layer``, ``panel_key`` or the graph is not there.
    TypeError
        If a number is not an integer.
    ValueError
        If there are not two technologies, no chain of genes in common joins them, too few neighborhoods correspond, a
        count is negative or NaN, an edge joins two sections, or ``key_added`` is there and scjepa did not write it.

    Examples
    --------
    >>> scjepa.tl.shared_components(adata, "technology")
    >>> scjepa.tl.niche_readout(adata, use_rep="X_shared", align="covariance")
    >>> scjepa.tl.niches(adata, n_niches=12)

    Where technologies are to mix further than that, at some cost in agreement, Harmony may follow:

    >>> scanpy.external.pp.harmony_integrate(adata, "technology", basis="X_stjepa_niche")
    """
    refuse_users(adata, "obsm", key_added)
    technologies = names_of(adata, technology_key)
    graph, sections, library_key = sections_of(adata, neighbors_key, library_key)
    data, graphs, groups, cells_of = {}, {}, {}, {}
    for name in sorted(set(technologies)):
        cells = cells_of[name] = np.flatnonzero(technologies == name)
        part = adata[cells]
        read = Features.of_counts(part, layer)
        data[name] = read.narrowed(np.flatnonzero(_panel(part, name, layer, panel_key)[read.columns]))
        graphs[name] = graph[cells][:, cells]
        groups[name] = np.zeros(len(cells), dtype=int) if sections is None else sections[cells]
    fitted = SharedComponents(n_comps, n_anchors=n_anchors, n_iterations=n_iterations)
    found = fitted.fit_transform(data, graphs, groups)
    values = np.empty((adata.n_obs, next(iter(found.values())).shape[1]), dtype=np.float32)
    for name, cells in cells_of.items():
        values[cells] = found[name]
    adata.obsm[key_added] = values
    found_of = ", ".join(f"{value:.2f}" for value in fitted.correlations_[:5])
    logger.info("Components in common of %s: correlations %s.", ", ".join(data), found_of)
    how: Note = {"technology_key": technology_key, "layer": layer, "correlations": fitted.correlations_}
    fitted.note_in(adata, key_added, library_key=library_key, neighbors_key=neighbors_key, **how)


def shared_components_of(adata: AnnData, key: str = _keys.SHARED) -> SharedComponents:
    """Return the fitted components that :func:`shared_components` noted, to apply them to other cells.

    Raises
    ------
    KeyError
        If there are none.

    Examples
    --------
    >>> shared = scjepa.tl.shared_components_of(adata)
    >>> shared.transform({"osmFISH": other})
    """
    return SharedComponents.noted(adata, key, "shared_components(adata, technology_key)")


def _panel(part: AnnData, technology: str, layer: str | None, panel_key: str | None) -> np.ndarray:
    """Return which genes a technology measured, by the table of panels or its counts, ``(n_vars,)`` bool."""
    table = part.varm.get(_keys.PANEL) if panel_key is None else entry_of(part, "varm", panel_key, _NO_TABLE)
    column = _keys.key_in(getattr(table, "columns", ()), technology)
    if column is not None:
        return flags_of(table[column])
    if panel_key is not None:
        raise KeyError(f"adata.varm[{panel_key!r}] must be a data frame with a column {technology!r}. {_NO_TABLE}")
    seen = np.zeros(part.n_vars, dtype=bool)
    for _, counts in iter_rows(counts_of(part, layer)):
        seen[counts.indices[counts.data != 0]] = True
    return seen
