"""Labels of cells from one reference or several, also by terms of a hierarchy, with unknown cells told apart."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from graphlib import CycleError, TopologicalSorter
from typing import TYPE_CHECKING, Self, TypeAlias

import numpy as np
import pandas as pd
from scipy import sparse

from scjepa._core.anndata import (
    column_of,
    counts_of,
    groups_of,
    labels_of,
    names_of,
    record,
    refuse_users,
    require_anndata,
    require_cells,
    warn_of_words,
)
from scjepa._core.conformal import HeldOut
from scjepa._core.counts import TARGET_SUM, check_of, read_counts
from scjepa._core.keys import ANNOTATION_PARTS, UNKNOWN
from scjepa._core.neighbors import nearest
from scjepa._core.palette import MISSING, palette
from scjepa._core.warn import warn
from scjepa.tl._annotator import (
    LARGEST,
    LEAST_SCALE,
    TOLD_CELLS,
    CellAnnotator,
    Discriminants,
    drift,
    leading,
    stratified,
    typical,
    variable_genes,
    within,
)
from scjepa.tl._moments import Features
from scjepa.tokens.vocabulary import Vocabulary, likely_cause, spelled_otherwise

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

    from scjepa.tl._moments import Features


_FEW_GENES = 100
"""Genes in common below which labels are doubtful."""

_FEWEST_FOR_DOUBLETS = 30
"""Cells, and genes, that scrublet needs."""

_TOGETHER = 200
"""Cells to label from which on they are read together; fewer are read one by one."""

Parents: TypeAlias = "Mapping[str, str | Sequence[str]] | pd.DataFrame"
"""Parents of each term: a mapping, or a table with a row for each pair, the term and its parent."""

_MOST_NAMES = 5

_SAMPLE = 5_000
"""Cells of either side that axes are made of, and cells that neighbors are looked for among, at most."""

_POOLED = 15
"""Neighbors whose distances are averaged, the cell itself among them: types come as groups of cells."""

_NEAREST_SHARE = 0.1
"""Share of the cells called a label, the nearest, that are taken to be of it: where they lie is the batch's doing."""

_SHIFTED_CELLS, _SHIFTS = 10, 3
"""Cells of a label for its shift to be told, and how often shifts are looked for."""


def annotate(
    adata: AnnData,
    reference: AnnData | Mapping[str, AnnData] | Sequence[AnnData],
    labels_key: str,
    *,
    batch_key: str | None = None,
    query_batch_key: str | None = None,
    hierarchy: Parents | None = None,
    error: float = 0.1,
    layer: str | None = None,
    reference_layer: str | None = None,
    n_genes: int = 2000,
    n_comps: int = 50,
    find_doublets: bool = False,
    key_added: str = "predicted_label",
    random_state: int = 0,
) -> None:
    """Label cells by labelled cells, in closed form: no network, no training.

    :class:`CellAnnotator` is fitted on the genes that all have in common, and says of each cell its label, how sure it
    is, whether it is of none of them, and which genes say so. From 200 cells on, cells are read together to tell those
    of no label: what they share with the reference but for their batch is taken off, and neighbors speak for each
    other, so that a new type is found as a group. Fewer cells are read one by one.

    Parameters
    ----------
    adata
        Cells to label, raw counts.
    reference
        Labelled cells, or several sets of them, by name or in a list. Labels of one name are one label.
    labels_key
        Their ``obs`` column of labels; missing values and ``"unlabelled"`` are cells without a label, which have no
        say.
    batch_key
        Their ``obs`` column of donors or batches. Whole batches are then held out to calibrate, so that confidence
        holds for cells of a new donor, and ``"unknown"`` where fewer than 200 cells are labelled. Several references
        are batches of their own. Default: one batch each.
    query_batch_key
        ``obs`` column of batches of ``adata``, which may lie at other distances from a reference of one batch; see
        :class:`LabelClassifier`. Default: one.
    hierarchy
        Parents of each label, such as terms of the Cell Ontology: a mapping (``{"CD8 T": "T", "T": "lymphocyte"}``, or
        several parents each), or a table of terms and parents. Each cell then gets the most specific term that is sure.
        Of references that differ in detail, cells of a label that lies above another do not take part.
    error
        Share of cells of known labels that may be called ``"unknown"``; and of a term's being wrong.
    layer, reference_layer
        Layers of raw counts. Default: ``X``.
    n_genes, n_comps
        Highly variable genes, and principal components of them.
    find_doublets
        Also flag doublets by :func:`scanpy.pp.scrublet`. A doublet of two types is often ``"unknown"`` or between them.
    key_added
        ``obs`` column of labels; the others begin with its name.
    random_state
        Seed of the parts held out, and of scrublet.

    Returns
    -------
    None
        Writes ``adata.obs[key_added]`` (categorical, with ``"unknown"``), ``adata.uns[f"{key_added}_colors"]``, and
        ``adata.obs[f"{key_added}_..."]``: ``confidence`` (the calibrated probability of the most probable label),
        ``p_value`` (share of held-out reference cells as unlike every label), ``evidence`` (expressed genes that
        speak for the label against the second), ``nearest`` (the most probable label, also of unknown cells), with a
        hierarchy ``term``, with ``find_doublets`` ``doublet``. ``adata.uns["scjepa"][key_added]`` holds how it was
        made, with ``held_out_accuracy`` and ``held_out_ece`` (expected calibration error) on held-out reference cells.

    Warns
    -----
    UserWarning
        If few genes are shared, names differ in case only, labels are spelled in two ways, more cells are unknown than
        ``error`` says, a batch lies farther from the reference than its labels from each other, or labels or cells are
        left out, on either side.

    Raises
    ------
    KeyError
        If a column or a layer is not there.
    ValueError
        If there are no cells, a reference shares no gene, there are fewer than two labels or one is ``"unknown"``, a
        label is no term of the hierarchy, values are no counts, a cell has no batch where batches are named, or a
        column of the name is there that scjepa did not write.

    Examples
    --------
    >>> scjepa.tl.annotate(adata, reference, labels_key="cell_type", batch_key="donor")
    >>> adata.obs[["predicted_label", "predicted_label_confidence", "predicted_label_evidence"]]
    """
    require_cells(adata)
    for name in (key_added, *(f"{key_added}_{part}" for part in ANNOTATION_PARTS)):
        refuse_users(adata, "obs", name)
    terms = None if hierarchy is None else Hierarchy(hierarchy)
    batches = groups_of(adata, query_batch_key)
    features = Features.of_counts(adata, layer)
    genes = _unique(None if features.names is None else list(features.names), "the cells to label")
    known = _Reference.of(_by_name(reference), labels_key, batch_key, reference_layer, genes)
    if terms is not None:
        terms.check(list(known.labels))
        known = known.without(terms.broad(list(np.unique(known.labels))))
    known = known.learnable()
    annotator = CellAnnotator(n_genes, n_comps, error=error, seed=random_state)
    annotator.fit(known.features, known.labels, known.batches)
    shared = features.taken(known.genes, len(known.genes))
    found, probabilities = annotator.predict_with_probabilities(shared, batches)
    found.index = adata.obs_names
    counted = np.flatnonzero(found["nearest"].notna())
    if len(counted) < len(found):
        first = found.index[int(found["nearest"].isna().argmax())]
        warn(
            f"{len(found) - len(counted):,} of {len(found):,} cells have no count of the genes in common, first "
            f"{str(first)!r}; they get no label."
        )
    if len(counted) >= _TOGETHER:
        _read_together(found, known, shared, annotator, np.zeros(len(found)) if batches is None else batches, counted)
    if terms is not None:
        sure = terms.surest(list(annotator.classifier_.labels_), probabilities, 1 - error)
        found["term"] = pd.Categorical(np.where(found["label"] == UNKNOWN, UNKNOWN, sure))
    if find_doublets:
        found["doublet"] = _doublets(adata, layer, random_state)
    _tell_of_unknown(found, error)
    _write(adata, found, key_added)
    classifier = annotator.classifier_
    how = {"labels_key": labels_key, "batch_key": batch_key, "error": error, "layer": layer, "n_genes": n_genes}
    facts = {"held_out": classifier.held_out_, "held_out_accuracy": classifier.accuracy_}
    facts |= {"held_out_ece": classifier.ece_, "temperature": classifier.temperature_, "n_shared": len(known.genes)}
    record(adata, key_added, slot="obs", n_comps=n_comps, random_state=random_state, **how, **facts)
    for part in found.columns.intersection(ANNOTATION_PARTS):
        record(adata, f"{key_added}_{part}", slot="obs", of=key_added)


def _read_together(
    found: pd.DataFrame,
    known: _Reference,
    query: Features,
    annotator: CellAnnotator,
    batches: np.ndarray,
    counted: np.ndarray,
) -> None:
    """Tell unknown cells from what the cells to label have in common, where there are enough of them."""
    codes = np.searchsorted(annotator.classifier_.labels_.astype(str), known.labels.astype(str))
    p_values = unlike(known.features, query, annotator, codes, batches, counted)
    found.iloc[counted, found.columns.get_loc("p_value")] = p_values
    is_unknown = np.zeros(len(found), dtype=bool)
    is_unknown[counted] = p_values < annotator.error
    found["label"] = found["nearest"].cat.add_categories(UNKNOWN).mask(is_unknown, UNKNOWN)


@dataclass(frozen=True)
class _Reference:
    counts: sparse.csr_matrix
    labels: np.ndarray
    batches: np.ndarray
    genes: np.ndarray

    @classmethod
    def of(
        cls,
        parts: Mapping[str, AnnData],
        labels_key: str,
        batch_key: str | None,
        layer: str | None,
        genes: Sequence[str],
    ) -> _Reference:
        """Read labelled cells of all references, genes that they and ``genes`` have in common."""
        shared = set(genes)
        for name, part in parts.items():
            _unique(part.var_names if part.var_names.is_unique else None, f"the reference {name!r}")
            common = shared & set(part.var_names)
            known = Vocabulary(list(map(str, part.var_names)))
            if not common:
                mine, theirs = [", ".join(map(repr, list(names)[:3])) for names in (genes, part.var_names)]
                raise ValueError(
                    f"The reference {name!r} shares no gene with the cells to label: {mine}, ... against {theirs}, ... "
                    f"{likely_cause(genes, known.names)} Names must be of one kind and one species."
                )
            if len(common) < _FEW_GENES:
                found = known.align(genes)
                for sentence in spelled_otherwise(found.case_only, found.version_only, name):
                    warn(f"{found.n_names - found.n_matched:,} genes are not in {name!r}. {sentence}")
            shared = common
        names = np.array([gene for gene in genes if gene in shared], dtype=object)
        if len(names) < _FEW_GENES:
            warn(f"Only {len(names):,} genes are in common with the reference; labels by so few are doubtful.")
        read = []
        for name, part in parts.items():
            column = column_of(part, labels_key, name=name)
            if column.dtype.kind == "f":
                raise ValueError(
                    f"{name}.obs[{labels_key!r}] holds numbers, such as {column.iloc[0]}, and no labels. Name the "
                    "column of cell types: labels_key=..."
                )
            labels = labels_of(column)
            _refuse_unknown(labels, labels_key, name)
            warn_of_words(labels, "label", labels_key, surely=True)
            batches = np.full(part.n_obs, "") if batch_key is None else names_of(part, batch_key, name)
            kept = labels != None  # noqa: E711 - of each element
            if not kept.all() and kept.any():
                warn(f"{(~kept).sum():,} of {len(kept):,} cells of {name!r} have no {labels_key!r}; they take no part.")
            check = check_of(part, layer, name, "reference_layer")
            counts = read_counts(counts_of(part, layer, name), cells=kept, check=check)
            batches = np.array([f"{name}/{batch}" for batch in batches], dtype=object)
            read.append((counts[:, part.var_names.get_indexer(names)], labels[kept], batches[kept]))
        of_counts, of_labels, of_batches = zip(*read, strict=True)
        _tell_of_spellings(dict(zip(parts, of_labels, strict=True)), labels_key)
        joined = sparse.vstack(of_counts, format="csr"), np.concatenate(of_labels), np.concatenate(of_batches)
        if not len(joined[1]):
            raise ValueError(f"No cell of the reference has a label in obs[{labels_key!r}].")
        return cls(*joined, names)

    @property
    def features(self) -> Features:
        """Counts to be log-normalized, which were checked when they were read."""
        return Features(self.counts, TARGET_SUM, names=list(self.genes), checked=True)

    def some(self, kept: np.ndarray) -> _Reference:
        """Return some of the cells."""
        return _Reference(self.counts[kept], self.labels[kept], self.batches[kept], self.genes)

    def without(self, labels: Sequence[str]) -> _Reference:
        """Leave out cells whose label says less than others do."""
        out = np.isin(self.labels.astype(str), list(labels))
        if out.any():
            warn(
                f"{out.sum():,} reference cells are labelled {', '.join(map(repr, labels))}, terms above other labels; "
                "they take no part."
            )
        return self.some(~out)

    def learnable(self) -> _Reference:
        """Leave out empty cells, and labels of a single cell."""
        kept = np.diff(self.counts.indptr) > 0
        if not kept.any():
            raise ValueError("No labelled cell of the reference has a count of the genes in common.")
        names, codes, sizes = np.unique(self.labels[kept].astype(str), return_inverse=True, return_counts=True)
        if (sizes < 2).any() and (sizes > 1).sum() > 1:
            single = names[sizes < 2]
            warn(f"{', '.join(map(repr, single[:5]))}: a label of one reference cell each, which is left out.")
            kept[np.flatnonzero(kept)[sizes[codes] < 2]] = False
        return self.some(kept)


def _refuse_unknown(labels: np.ndarray, key: str, name: str) -> None:
    """Raise if cells are labelled with the word for cells of no label."""
    n_unknown = int((labels == UNKNOWN).sum())
    if n_unknown:
        raise ValueError(
            f"{n_unknown:,} cells of {name!r} have the label {UNKNOWN!r}, what cells of no label are called. Leave "
            f"them out: {name} = {name}[{name}.obs[{key!r}] != {UNKNOWN!r}].copy()."
        )


def _tell_of_spellings(labels: Mapping[str, np.ndarray], key: str) -> None:
    """Warn of labels that are one but for case, punctuation, plural, or the word "cell"."""
    first: dict[str, tuple[str, str]] = {}
    for name, own in labels.items():
        for label in map(str, dict.fromkeys(own)):
            other, of = first.setdefault(_plain(label), (label, name))
            if other != label:
                warn(
                    f"{other!r} (in {of!r}) and {label!r} (in {name!r}) are read as two labels. If they are one, write "
                    f"it in one way, in {name!r}: obs[{key!r}] = obs[{key!r}].astype(str).replace({{{label!r}: "
                    f"{other!r}}})."
                )


def _plain(label: str) -> str:
    """Return the words of a label, without "cell" and the "s" of plurals; "CD14+" and "CD14-" differ."""
    words = re.findall(r"[^\W_]+(?:\+|-(?![^\W_]))?", label.casefold())
    words = [word[:-1] if len(word) > 2 and word.endswith("s") else word for word in words]
    return " ".join(word for word in words if word != "cell") or label


def _unique(names: Sequence[str] | None, of: str) -> Sequence[str]:
    if names is None:
        raise ValueError(f"Gene names of {of} are not unique: adata.var_names_make_unique().")
    return names


def _by_name(reference: AnnData | Mapping[str, AnnData] | Sequence[AnnData]) -> dict[str, AnnData]:
    if hasattr(reference, "obs_names") or isinstance(reference, str | os.PathLike):
        found = {"reference": reference}
    elif isinstance(reference, Mapping):
        found = {str(name): part for name, part in reference.items()}
    else:
        found = {f"reference {number}": part for number, part in enumerate(reference, 1)}
    if not found:
        raise ValueError("There is no reference: name labelled cells.")
    for name, part in found.items():
        require_anndata(part, name)
    return found


def _doublets(adata: AnnData, layer: str | None, seed: int) -> np.ndarray:
    import scanpy as sc
    from anndata import AnnData as Cells

    cells = Cells(read_counts(counts_of(adata, layer), dtype=np.float32))
    if min(cells.shape) < _FEWEST_FOR_DOUBLETS:
        warn(f"Doublets cannot be told among {cells.n_obs:,} cells by {cells.n_vars:,} genes; no cell is flagged.")
        return np.zeros(adata.n_obs, dtype=bool)
    n_comps = min(30, min(cells.shape) - 1)
    try:
        sc.pp.scrublet(cells, n_prin_comps=n_comps, random_state=seed, verbose=False)
    except ValueError as error:  # scrublet's own filters leave fewer cells or genes than components
        warn(f"Doublets cannot be told: scrublet stopped ({error}). No cell is flagged.")
        return np.zeros(adata.n_obs, dtype=bool)
    if "predicted_doublet" not in cells.obs:
        warn("Scrublet found no threshold between singlets and doublets; no cell is flagged.")
        return np.zeros(adata.n_obs, dtype=bool)
    return cells.obs["predicted_doublet"].to_numpy(dtype=bool)


def _tell_of_unknown(found: pd.DataFrame, error: float) -> None:
    share = float((found["label"] == UNKNOWN).mean())
    if share > 2 * error:
        warn(
            f"{share:.0%} of the cells are unknown, of held-out reference cells {error:.0%}: the reference lacks their "
            "types, or these cells were measured otherwise (chemistry, tissue, stimulation). Their nearest label is in "
            "the column that ends in _nearest."
        )


def _write(adata: AnnData, found: pd.DataFrame, key: str) -> None:
    adata.obs[key] = found["label"]
    n_labels = len(found["label"].cat.categories) - 1
    adata.uns[f"{key}_colors"] = [*palette(n_labels), MISSING]
    for part in ANNOTATION_PARTS:
        name = f"{key}_{part}"
        if part in found:
            adata.obs[name] = found[part]
        elif name in adata.obs:  # of an earlier call
            del adata.obs[name]


# -- terms of a hierarchy ----------------------------------------------------------------------------------------------


class Hierarchy:
    """Terms and their parents, of which a term may have several.

    Parameters
    ----------
    parents
        Parent, or parents, of each term; a data frame has terms in its first column and a parent in its second. Terms
        without a parent need no row.

    Raises
    ------
    ValueError
        If a term is its own ancestor, or a table has not two columns.
    TypeError
        If ``parents`` is neither a mapping nor a table.
    """

    def __init__(self, parents: Parents) -> None:
        self.parents = _parents(parents)
        self._above: dict[str, frozenset[str]] = {}
        try:
            for term in TopologicalSorter(self.parents).static_order():
                self._above[term] = frozenset({term}).union(*map(self.above, self.parents.get(term, ())))
        except CycleError as error:
            circle = " -> ".join(reversed(error.args[1]))
            raise ValueError(f"The hierarchy has a circle: {circle}. A term cannot be its own ancestor.") from None

    @property
    def terms(self) -> list[str]:
        """All terms, sorted."""
        return sorted(self._above)

    def above(self, term: str) -> frozenset[str]:
        """Return a term and all of its ancestors."""
        return self._above.get(term, frozenset({term}))

    def check(self, labels: Sequence[str]) -> None:
        """Refuse labels that are no terms.

        Raises
        ------
        ValueError
            With the labels, and terms that look like them.
        """
        terms = self.terms
        unknown = sorted(set(labels) - set(terms))
        if not unknown:
            return
        said = []
        for label in unknown[:_MOST_NAMES]:
            near = get_close_matches(label, terms, n=1)
            said.append(f"{label!r}" + (f" (did you mean {near[0]!r}?)" if near else ""))
        raise ValueError(
            f"{len(unknown)} labels are no terms of the hierarchy: {', '.join(said)}"
            f"{', ...' if len(unknown) > _MOST_NAMES else ''}. Add a row with their parent, or rename the labels."
        )

    def broad(self, labels: Sequence[str]) -> list[str]:
        """Return the labels that lie above others of them."""
        return sorted({above for label in labels for above in self.above(label) - {label}} & set(labels))

    def surest(self, labels: Sequence[str], probabilities: np.ndarray, least: float) -> np.ndarray:
        """Return the most specific term of each cell whose probability is ``least`` or more.

        Parameters
        ----------
        labels
            ``(n_labels,)`` terms.
        probabilities
            ``(n_cells, n_labels)``; that of a term is the sum over labels at or below it.
        least
            Probability that is wanted.

        Returns
        -------
        numpy.ndarray
            ``(n_cells,)`` texts, ``None`` where no term is that sure. Of terms as specific the more probable one.
        """
        terms = sorted({above for label in labels for above in self.above(label)})
        below = np.array([[term in self.above(label) for term in terms] for label in labels], dtype=np.float64)
        sure = probabilities @ below
        depth = np.array([len(self.above(term)) for term in terms], dtype=np.float64)
        rank = np.where(sure >= least, depth + np.minimum(sure, 1) / 2, -1.0)
        found = np.array([*terms, None], dtype=object)
        return found[np.where(rank.max(axis=1) < 0, len(terms), rank.argmax(axis=1))]


def _parents(parents: Parents) -> dict[str, tuple[str, ...]]:
    if not isinstance(parents, Mapping) and hasattr(parents, "itertuples"):
        if parents.shape[1] != 2:
            raise ValueError(f"A table of parents has two columns, term and parent; found {list(parents.columns)}.")
        pairs = [(str(term), str(parent)) for term, parent in parents.dropna().itertuples(index=False)]
    elif isinstance(parents, Mapping):
        pairs = [
            (str(term), str(parent))
            for term, found in parents.items()
            for parent in ([found] if isinstance(found, str) else found or ())
        ]
    else:
        raise TypeError(
            f"hierarchy must be a mapping from each term to its parents, or a table of both; found {parents!r}."
        )
    found: dict[str, list[str]] = {}
    for term, parent in pairs:
        found.setdefault(term, []).append(parent)
    return {term: tuple(dict.fromkeys(own)) for term, own in found.items()}


# -- unlike all labelled cells -----------------------------------------------------------------------------------------


def unlike(
    reference: Features,
    query: Features,
    annotator: CellAnnotator,
    labels: np.ndarray,
    batches: np.ndarray,
    cells: np.ndarray,
) -> np.ndarray:
    """Return the share of held-out reference cells that are as unlike all labels, of each of ``cells``.

    Two distances from the nearest label are combined by Fisher's method, and the combination is calibrated on reference
    cells that were held out one by one. The first is the annotator's, in the space that the means of labels span. The
    second is Mahalanobis among principal components of both sides together, of genes that vary in either, so that what
    a new type expresses is in them: what most labels of a query batch are shifted by is taken off, distances are
    averaged over neighbors, and they are relative to the label's own.

    Parameters
    ----------
    reference, query
        Counts of the genes that the annotator was fitted on.
    labels
        ``(n_reference,)`` codes of the annotator's labels.
    batches
        ``(n_query,)`` batch of each.
    cells
        Positions of the query's cells that have counts; the others are left out.
    """
    how = labels, len(annotator.classifier_.labels_), batches[cells], annotator.seed
    of_means = _spanned(annotator.places(reference), annotator.places(query)[cells], *how)
    first, second = _joint_places(reference, query, annotator)
    of_both = _together(first, second[cells], *how)
    held = [HeldOut.of(found) for _, found in (of_means, of_both)]
    new, old = (
        -sum(np.log(kept.p_values(pair[side])) for kept, pair in zip(held, (of_means, of_both), strict=True))
        for side in (0, 1)
    )
    return HeldOut.of(np.asarray(old)).p_values(np.asarray(new))


_Distances = tuple[np.ndarray, np.ndarray]
"""Of new cells, and of held-out cells."""

_Read = Callable[[np.ndarray, np.ndarray, int, np.ndarray], tuple[np.ndarray, np.ndarray]]
"""From places, labels and their number to the labels of other places, and their distances from the nearest."""


def _held_out(values: np.ndarray, labels: np.ndarray, seed: int, read: _Read) -> tuple[np.ndarray, np.ndarray]:
    """Return the distance and the label of each cell, as ``read`` from a fit without it."""
    held, called = np.zeros(len(values)), np.zeros(len(values), dtype=np.int64)
    for train, test in stratified(labels, 5, seed):
        known = np.unique(labels[train])
        if len(known) > 1:
            codes = np.searchsorted(known, labels[train])
            found, held[test] = read(values[train], codes, len(known), values[test])
            called[test] = known[found]
    return held, called


def _spanned(
    values: np.ndarray, new: np.ndarray, labels: np.ndarray, n_labels: int, batches: np.ndarray, seed: int
) -> _Distances:
    def read(values: np.ndarray, labels: np.ndarray, n_labels: int, new: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        logits, distances = Discriminants.fit(values, labels, n_labels).read(new)
        return logits.argmax(axis=1), distances

    held, called = _held_out(values, labels, seed, read)
    usual = typical(called, held, n_labels)
    codes, found = read(values, labels, n_labels, new)
    for batch in np.unique(batches):
        own = batches == batch
        found[own] /= drift(codes[own], found[own], usual)
    return found, held


@dataclass(frozen=True)
class _Gaussians:
    """Labels as Gaussians of one covariance, in all dimensions."""

    means: np.ndarray
    white: np.ndarray
    prior: np.ndarray

    @classmethod
    def fit(cls, values: np.ndarray, codes: np.ndarray, n_labels: int) -> Self:
        means, inverse, sizes = within(values, codes, n_labels)
        return cls(means, np.linalg.cholesky(inverse), np.log(sizes / sizes.sum()))

    def read(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the most probable label, and the squared distance from the nearest."""
        places, means = values @ self.white, self.means @ self.white
        squares = (places**2).sum(axis=1)[:, None] - 2 * places @ means.T + (means**2).sum(axis=1)
        return (self.prior - squares / 2).argmax(axis=1), np.maximum(squares.min(axis=1), 0)

    def unshifted(self, values: np.ndarray, batches: np.ndarray) -> np.ndarray:
        """Take off each batch what most labels are shifted by: the median over labels of their medians' shifts."""
        found = values.copy()
        for batch in np.unique(batches):
            rows = np.flatnonzero(batches == batch)
            for _ in range(_SHIFTS):
                codes = self.read(found[rows])[0]
                told = np.flatnonzero(np.bincount(codes) >= _SHIFTED_CELLS)
                if len(told) < 2:
                    break
                shifts = [np.median(found[rows[codes == code]], axis=0) - self.means[code] for code in told]
                found[rows] -= np.median(shifts, axis=0)
        return found


def _together(
    values: np.ndarray, new: np.ndarray, labels: np.ndarray, n_labels: int, batches: np.ndarray, seed: int
) -> _Distances:
    def read(values: np.ndarray, labels: np.ndarray, n_labels: int, new: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        fitted = _Gaussians.fit(values, labels, n_labels)
        return fitted.read(fitted.unshifted(new, np.zeros(len(new))))

    held, called = _held_out(values, labels, seed, read)
    fitted = _Gaussians.fit(values, labels, n_labels)
    before, new = new, fitted.unshifted(new, batches)
    _tell_of_shift(fitted, before - new, batches)
    codes, found = fitted.read(new)
    size = min(_SAMPLE, len(values), len(new))  # of the same number of cells neighbors are as near
    held, found = _pooled(held, values, size, seed), _pooled(found, new, size, seed)
    usual, near = (typical(called, held, n_labels, share) for share in (0.5, _NEAREST_SHARE))
    usual = np.where(usual > 0, usual, np.median(usual[usual > 0]) if (usual > 0).any() else 1.0)
    near = np.where(near > 0, near, np.nan)  # nothing is told of a label whose cells are repeated
    found, held = found / usual[codes], held / usual[called]
    for batch in np.unique(batches):
        own = np.flatnonzero(batches == batch)
        farther = typical(codes[own], found[own], n_labels, _NEAREST_SHARE, TOLD_CELLS) * usual / near
        told = farther > 0
        if told.any():
            most = np.exp(np.median(np.log(farther[told])))
            found[own] /= np.where(told, np.fmax(farther, most), most)[codes[own]]
    return found, held


def _tell_of_shift(fitted: _Gaussians, shifts: np.ndarray, batches: np.ndarray) -> None:
    """Warn of batches that lie farther from the reference than its labels usually do from the nearest other."""
    means = fitted.means @ fitted.white
    between = np.sqrt(((means[:, None] - means) ** 2).sum(axis=2)) + np.diag(np.full(len(means), np.inf))
    usual = float(np.median(between.min(axis=1)))
    names, first = np.unique(batches, return_index=True)
    far = np.linalg.norm(shifts[first] @ fitted.white, axis=1) / usual
    if (far > 1).any():
        said = [f"{name!r} by {by:.1f}" for name, by in zip(map(str, names), far, strict=True) if by > 1]
        if len(names) > 1:
            of = f"cells of {len(said)} of {len(names)} batches ({', '.join(said[:_MOST_NAMES])} times"
        else:
            of = f"cells to label ({far[0]:.1f} times"
        warn(
            f"The {of} the distance of a label from the next) lie farther from the reference than its labels do from "
            "each other: another chemistry, tissue or treatment. Which of them are 'unknown' is doubtful; a reference "
            "of the same kind of cells would tell."
        )


def _pooled(distances: np.ndarray, values: np.ndarray, size: int, seed: int) -> np.ndarray:
    """Return the mean distance of each cell's neighbors among a random part of ``size`` cells, or all of fewer."""
    found = np.empty_like(distances)
    order = np.random.default_rng(seed).permutation(len(values))
    for start in range(0, len(order), size):  # the last part overlaps the one before, for fewer cells lie farther apart
        part = order[max(0, min(start, len(order) - size)) :][:size]
        neighbors, _ = nearest(values[part], min(_POOLED, len(part)), seed)
        found[part] = distances[part][neighbors].mean(axis=1)
    return found


def _joint_places(reference: Features, query: Features, annotator: CellAnnotator) -> tuple[np.ndarray, np.ndarray]:
    """Return places of both sides on principal axes of both.

    Each cell counts as much as any other: axes are made of the noise of those that count for more, which would put them
    far from all others.
    """
    samples = [_sampled(side) for side in (reference, query)]
    variable = np.union1d(annotator.variable_, variable_genes(samples[1], annotator.n_genes))
    dense = [sample[:, variable].toarray() for sample in samples]
    means = [side.mean(axis=0) for side in dense]
    scale = np.sqrt(sum(side.var(axis=0) for side in dense) / 2) + LEAST_SCALE

    def scaled(values: np.ndarray, mean: np.ndarray) -> np.ndarray:
        values = (values - mean) / scale
        return np.clip(values, -LARGEST, LARGEST, out=values)

    centered = [scaled(side, mean) for side, mean in zip(dense, means, strict=True)]
    n_comps = min(annotator.n_comps, len(dense[0]) - 2, len(variable))
    axes = leading(sum(side.T @ side for side in centered), max(n_comps, 1))
    first, second = (
        np.concatenate([scaled(logged.toarray(), means[0]) @ axes for _, logged in side.showing(variable).chunks()])
        for side in (reference, query)
    )
    return first.astype(np.float64), second.astype(np.float64)


def _sampled(features: Features) -> sparse.csr_matrix:
    """Return cells evenly spaced, log-normalized."""
    chosen = np.unique(np.linspace(0, features.n_cells - 1, min(features.n_cells, _SAMPLE)).round().astype(int))
    rows = []
    for place, logged in features.chunks():
        rows.append(logged[chosen[(chosen >= place.start) & (chosen < place.stop)] - place.start])
    return sparse.vstack(rows, format="csr")
