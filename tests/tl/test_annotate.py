"""Labels of cells in closed form: what is known, what is not, and what says so."""

from __future__ import annotations

import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import scjepa
from scjepa.tl import CellAnnotator, LabelClassifier, annotate
from scjepa.tl._annotate import Hierarchy, _plain, _pooled

TYPES = ("B", "CD4 T", "CD8 T", "NK")
PARENTS = {"CD4 T": "T", "CD8 T": "T", "T": "lymphocyte", "B": "lymphocyte", "NK": "lymphocyte"}


def blood(n: int = 400, seed: int = 0, types=TYPES, *, n_genes: int = 120, donors: int = 1) -> ad.AnnData:
    """Return cells whose type shows in a twelfth of the genes; T cells share another; donors differ in depth."""
    rng = np.random.default_rng(seed)
    kind = rng.integers(0, len(types), n)
    donor = rng.integers(0, donors, n)
    rates = np.full((n, n_genes), 0.5)
    for i, name in enumerate(types):
        own = TYPES.index(name) if name in TYPES else 5
        rates[kind == i, own * 10 : own * 10 + 10] = 4.0
        if name.endswith("T"):
            rates[kind == i, 60:70] = 4.0
    rates *= rng.gamma(5, 0.2, (n, 1)) * (1 + donor[:, None] / 4)
    obs = pd.DataFrame(
        {"cell_type": np.array(types)[kind], "donor": [f"d{i}" for i in donor]}, index=[f"{seed}-{i}" for i in range(n)]
    )
    genes = pd.DataFrame(index=[f"g{i}" for i in range(n_genes)])
    return ad.AnnData(sparse.csr_matrix(rng.poisson(rates).astype(np.float32)), obs=obs, var=genes)


@pytest.fixture(scope="module")
def reference() -> ad.AnnData:
    return blood(600, donors=3)


def test_labels_confidence_and_evidence(reference):
    query = blood(300, seed=1)
    annotate(query, reference, "cell_type", batch_key="donor")
    found = query.obs
    assert (found["predicted_label_nearest"].astype(str) == found["cell_type"]).mean() > 0.95
    assert found["predicted_label_confidence"].between(0, 1).all()
    assert (found["predicted_label"] == "unknown").mean() < 0.2
    cell = found[found["predicted_label"] == "B"].iloc[0]
    assert set(cell["predicted_label_evidence"].split(", ")) <= {f"g{i}" for i in range(10)}
    note = query.uns["scjepa"]["predicted_label"]
    assert note["held_out"] == "batch"
    assert note["held_out_accuracy"] > 0.95
    assert 0 <= note["held_out_ece"] < 0.1
    annotate(query, reference, "cell_type")  # what it wrote itself is replaced


def test_cells_of_a_type_that_the_reference_lacks_are_unknown(reference):
    query = blood(400, seed=2, types=(*TYPES, "platelet"))
    with pytest.warns(UserWarning, match="are unknown"):
        annotate(query, reference, "cell_type", batch_key="donor", error=0.1)
    is_unknown = query.obs["predicted_label"] == "unknown"
    new = query.obs["cell_type"] == "platelet"
    assert is_unknown[new].mean() > 0.9
    assert is_unknown[~new].mean() < 0.2
    assert (query.obs["predicted_label_p_value"] < 0.1).equals(is_unknown)


@pytest.mark.parametrize("error", [0.05, 0.2])
def test_the_stated_error_holds_for_cells_of_the_same_kind(error):
    annotator = CellAnnotator(error=error).fit(blood(1500, seed=3), blood(1500, seed=3).obs["cell_type"])
    alarms = (annotator.predict(blood(2000, seed=4))["label"] == "unknown").mean()
    assert alarms == pytest.approx(error, abs=0.03)


def test_order_of_cells_and_genes_changes_nothing(reference):
    query = blood(80, seed=5)
    annotator = CellAnnotator().fit(reference, reference.obs["cell_type"])
    found = annotator.predict(query)
    turned = annotator.predict(query[::-1, ::-1].copy()).iloc[::-1]
    columns = ["label", "nearest", "confidence", "distance"]
    pd.testing.assert_frame_equal(found[columns], turned[columns], rtol=1e-4)
    one = annotator.predict(query[:1].copy())
    assert one["confidence"].iloc[0] == pytest.approx(found["confidence"].iloc[0], rel=1e-5)


def test_it_is_kept(reference, tmp_path):
    annotator = CellAnnotator(n_comps=20).fit(reference, reference.obs["cell_type"], reference.obs["donor"])
    annotator.save(tmp_path / "annotator.safetensors")
    loaded = CellAnnotator.load(tmp_path / "annotator.safetensors")
    query = blood(50, seed=6)
    pd.testing.assert_frame_equal(loaded.predict(query), annotator.predict(query))
    assert set(loaded.markers("NK", 5).index) <= {f"g{i}" for i in range(30, 40)}
    with pytest.raises(KeyError, match="'platelet' is no label"):
        loaded.markers("platelet")
    with pytest.raises(KeyError, match="features of the fit"):
        loaded.predict(query[:, :50].copy())


@pytest.mark.filterwarnings("ignore:.*are unknown")
def test_a_hierarchy_gives_the_term_that_is_sure(reference):
    query = blood(200, seed=7)
    blurred = query.X.toarray()
    t_cells = query.obs["cell_type"].str.endswith("T").to_numpy()
    mean = blurred[t_cells, 10:30].reshape(-1, 2, 10).mean(axis=1).round()
    blurred[t_cells, 10:30] = np.tile(mean, 2)  # as much CD4 as CD8
    query.X = sparse.csr_matrix(blurred)
    found, probabilities = CellAnnotator().fit(reference, reference.obs["cell_type"]).predict_with_probabilities(query)
    terms = Hierarchy(PARENTS).surest(sorted(TYPES), probabilities, 0.95)
    doubtful = t_cells & (found["confidence"] < 0.95).to_numpy()
    assert doubtful.sum() > 20
    assert set(terms[doubtful]) == {"T"}
    assert (terms[~doubtful] == found["nearest"][~doubtful].astype(str)).all()
    annotate(query, reference, "cell_type", hierarchy=PARENTS, error=0.05)
    told = query.obs["predicted_label_term"].astype(str)
    assert ((told == "unknown") == (query.obs["predicted_label"] == "unknown")).all()


def test_a_table_of_parents_and_several_parents_do():
    table = pd.DataFrame({"term": ["a", "a", "b", "e"], "parent": ["b", "c", "d", "d"]})
    query, labelled = blood(60, seed=8, types=("B", "NK")), blood(200, seed=9, types=("B", "NK"))
    labelled.obs["cell_type"] = labelled.obs["cell_type"].map({"B": "a", "NK": "e"})
    annotate(query, labelled, "cell_type", hierarchy=table)
    assert set(query.obs["predicted_label_term"].dropna()) <= {"a", "b", "c", "d", "e", "unknown"}


@pytest.mark.parametrize(
    ("hierarchy", "error", "message"),
    [
        ({"CD4 T": "T", "CD8 T cell": "T", "B": "x", "NK": "x"}, ValueError, r"'CD8 T' \(did you mean"),
        ({"T": "CD4 T", "CD4 T": "T"}, ValueError, "circle: T -> CD4 T -> T"),
        (pd.DataFrame({"a": ["B"]}), ValueError, "two columns"),
        (["CD4 T"], TypeError, "mapping from each term"),
    ],
)
def test_terms_that_cannot_be_are_named(reference, hierarchy, error, message):
    with pytest.raises(error, match=message):
        annotate(blood(20, seed=1), reference, "cell_type", hierarchy=hierarchy)


def test_several_references_are_one_with_the_genes_in_common(reference):
    other = blood(300, seed=10)[:, 10:].copy()
    other.obs["cell_type"] = other.obs["cell_type"].replace({"CD4 T": "T", "CD8 T": "T"})
    query = blood(200, seed=11)
    with pytest.warns(UserWarning, match=r"\d+ reference cells are labelled 'T', terms above"):
        annotate(query, {"one": reference, "two": other}, "cell_type", hierarchy=PARENTS)
    assert query.uns["scjepa"]["predicted_label"]["n_shared"] == 110
    assert query.uns["scjepa"]["predicted_label"]["held_out"] == "batch"
    assert "T" not in query.obs["predicted_label"].cat.categories


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (None, "shares no gene"),
        (lambda a: "B", "a classifier needs two labels"),
        (lambda a: "unlabelled", "No cell of the reference has a label"),
        (
            lambda a: np.where(a.obs["cell_type"] == "B", "unknown", "T"),
            "label 'unknown'",
        ),
    ],
)
def test_references_that_cannot_serve_are_told_why(labels, message):
    labelled = blood(100, seed=12)
    if labels is None:
        labelled.var_names = [f"ENSG{i}" for i in range(labelled.n_vars)]
    else:
        labelled.obs["cell_type"] = labels(labelled)
    with pytest.raises(ValueError, match=message):
        annotate(blood(20, seed=1), labelled, "cell_type")


def test_bad_input_changes_nothing(reference, snapshot):
    query = blood(30, seed=13)
    before = snapshot(query)
    with pytest.raises(KeyError, match="'type'"):
        annotate(query, reference, "type")
    with pytest.raises(ValueError, match="already has 'cell_type'"):
        annotate(query, reference, "cell_type", key_added="cell_type")
    with pytest.raises(ValueError, match="error must lie strictly between"):
        annotate(query, reference, "cell_type", error=0)
    with pytest.raises(ValueError, match="Choose a larger error"):
        annotate(query, reference, "cell_type", error=1e-4)
    assert snapshot(query) == before


def test_cells_without_counts_and_labels_of_one_cell(reference):
    query = blood(30, seed=14)
    query.X = sparse.csr_matrix(query.X.multiply(np.arange(30)[:, None] != 3))
    labelled = reference.copy()
    labelled.obs.loc[labelled.obs_names[0], "cell_type"] = "single"
    with pytest.warns(UserWarning, match="'single'"):
        annotate(query, labelled, "cell_type")
    assert pd.isna(query.obs["predicted_label"].iloc[3])
    assert query.obs["predicted_label_confidence"].iloc[3] == 0
    assert query.obs["predicted_label_evidence"].iloc[3] == ""


def test_many_unknown_cells_are_told_of(reference):
    with pytest.warns(UserWarning, match=r"\d+% of the cells are unknown"):
        annotate(blood(200, seed=15, types=("B", "platelet")), reference, "cell_type")


def test_doublets_are_flagged_when_asked_for(reference):
    pytest.importorskip("skimage")
    query = blood(300, seed=16)
    query.X = query.X + sparse.vstack([query.X[150:180], sparse.csr_matrix((270, query.n_vars))]).tocsr()
    annotate(query, reference, "cell_type", find_doublets=True)
    assert query.obs["predicted_label_doublet"].dtype == bool
    annotate(query, reference, "cell_type")
    assert "predicted_label_doublet" not in query.obs


def test_a_classifier_of_an_embedding(reference):
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 3, 500)
    places = rng.normal(size=(500, 8)) + 4 * np.eye(8)[codes]
    classifier = LabelClassifier().fit(places, codes.astype(str))
    found = classifier.predict(places)
    assert (found.codes == codes).mean() > 0.95
    np.testing.assert_allclose(found.probabilities.sum(axis=1), 1)
    far = classifier.predict(np.full((1, 8), 20.0) * [-1, 1, 1, 0, 0, 0, 0, 0])
    assert far.p_values[0] == pytest.approx(1 / 501)
    with pytest.raises(ValueError, match="8 dimensions"):
        classifier.predict(places[:, :4])
    with pytest.raises(ValueError, match="one cell cannot be learned"):
        LabelClassifier().fit(places[:3], ["a", "a", "b"])


def test_metrics_of_annotation():
    truth = ["B", "B", "T", "T", "NK"]
    scores = scjepa.metrics.annotation_scores(
        truth, ["B", "T", "T", "unknown", "unknown"], [0.9, 0.6, 0.9, 0.5, 0.2], known=["B", "T"]
    )
    assert scores.accuracy == pytest.approx(0.5)
    assert (scores.unknown, scores.found_unknown, scores.n_new) == (0.25, 1.0, 1)
    assert scores.labels.loc["B", "recall"] == 0.5
    with pytest.raises(ValueError, match="spelt alike"):
        scjepa.metrics.annotation_scores(truth, truth, known=["x"])
    error = scjepa.metrics.expected_calibration_error
    assert error([True, False], [0.5, 0.5]) == pytest.approx(0)
    assert error([True] * 4, [0.75] * 4) == pytest.approx(0.25)
    with pytest.raises(ValueError, match=r"in \[0, 1\]"):
        error([True], [2.0])


def test_cells_to_label_are_read_together_where_they_are_many(reference):
    """A new type is found, another chemistry is none, and few cells are read as an annotator reads them."""
    query = blood(600, seed=11, types=(*TYPES, "platelet"))
    rng = np.random.default_rng(0)
    seen = rng.uniform(0.3, 0.9, query.n_vars)  # each gene is seen less, by the chemistry
    query.X = sparse.csr_matrix(rng.binomial(query.X.toarray().astype(int), seen).astype(np.float32))
    annotate(query, reference, "cell_type")
    is_unknown = query.obs["predicted_label"] == "unknown"
    new = query.obs["cell_type"] == "platelet"
    assert is_unknown[new].mean() > 0.9
    assert is_unknown[~new].mean() < 0.2
    np.testing.assert_array_equal(is_unknown, query.obs["predicted_label_p_value"] < 0.1)
    few = blood(30, seed=12)
    annotate(few, reference, "cell_type", batch_key="donor")
    alone = CellAnnotator().fit(
        reference.X, reference.obs["cell_type"], reference.obs["donor"], feature_names=reference.var_names
    )
    np.testing.assert_allclose(few.obs["predicted_label_p_value"], alone.predict(few)["p_value"])


def test_empty_cells_take_no_part_where_all_are_read_together(reference):
    query = blood(300, seed=13)
    counts = query.X.toarray()
    counts[:5] = 0
    query.X = sparse.csr_matrix(counts)
    annotate(query, reference, "cell_type")
    assert query.obs["predicted_label"].isna().sum() == 5
    assert query.obs["predicted_label_p_value"].isna().sum() == 5
    assert (query.obs["predicted_label"] == "unknown").mean() < 0.25


def test_what_cannot_be_told_of_few_cells_and_genes(reference):
    with pytest.warns(UserWarning, match="Doublets cannot be told among 1 cells"):
        annotate(blood(1, seed=1), reference, "cell_type", find_doublets=True)
    with pytest.raises(ValueError, match="No gene varies"), pytest.warns(UserWarning, match="1 genes are in common"):
        annotate(blood(60, seed=1)[:, :1].copy(), reference, "cell_type")
    same = blood(250, seed=1)
    same.X = sparse.csr_matrix(np.repeat(same.X[0].toarray(), 250, axis=0))
    annotate(same, reference, "cell_type")
    assert same.obs["predicted_label"].nunique() == 1


def test_a_group_is_pooled_at_one_density_however_many_cells_there_are():
    rng = np.random.default_rng(0)
    values = np.vstack([rng.normal(size=(20, 3)) * 0.1 + 50, rng.normal(size=(2_001, 3))])
    distances = np.r_[np.full(20, 100.0), np.ones(2_001)]
    found = [_pooled(distances[:n], values[:n], 1_000, 0)[:20].mean() for n in (1_000, 2_000, 2_001)]
    assert found[2] == pytest.approx(found[1], rel=0.3)


def test_counts_of_the_reference_are_looked_for_in_the_reference(reference):
    adata, reference = blood(300, seed=1), reference.copy()
    reference.layers["counts"] = reference.X.copy()
    reference.X = reference.X.log1p()
    with pytest.warns(UserWarning, match=r"reference.layers\['counts'\]: pass reference_layer='counts'"):
        annotate(adata, reference, "cell_type")
    with pytest.raises(TypeError, match=r"read_h5ad\('labelled.h5ad'\)"):
        annotate(adata, "labelled.h5ad", "cell_type")
    reference.obs["depth"] = 0.5
    with pytest.raises(ValueError, match="holds numbers"):
        annotate(adata, reference, "depth", reference_layer="counts")


def test_what_takes_no_part_is_told_of(reference):
    some = reference.copy()
    some.obs["cell_type"] = some.obs["cell_type"].astype(object)
    some.obs.iloc[:40, 0] = np.nan
    some.obs.iloc[40:60, 0] = "nan"
    query = blood(60, seed=21)
    query.X[:7] = 0
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        annotate(query, some, "cell_type")
    text = " ".join(str(warning.message) for warning in told)
    assert "40 of 600 cells of 'reference' have no 'cell_type'" in text
    assert "20 cells have the label 'nan', a text" in text
    assert "7 of 60 cells have no count of the genes in common, first '21-0'" in text
    assert query.obs["predicted_label"].isna().sum() == 7


def test_what_cannot_be_labelled_is_refused_before_the_fit(reference, monkeypatch):
    monkeypatch.setattr(CellAnnotator, "fit", lambda *_, **__: pytest.fail("fitted"))
    query = blood(60, seed=22)
    with pytest.raises(ValueError, match="0 cells"):
        annotate(query[:0].copy(), reference, "cell_type")
    query.obs["run"] = ["a"] * 59 + [None]
    with pytest.raises(ValueError, match=r"1 cells have no value.*'22-59'"):
        annotate(query, reference, "cell_type", query_batch_key="run")
    some = reference.copy()
    some.obs.iloc[:5, 0] = "unknown"
    with pytest.raises(
        ValueError, match=r"5 cells of 'reference' have the label 'unknown'.*Leave them out: reference = reference"
    ):
        annotate(query, some, "cell_type")
    with pytest.raises(TypeError, match="asked for a list"):
        annotate(query, reference, ["cell_type"])


def test_names_that_differ_in_case_are_told_of(reference):
    query = blood(60, seed=23)
    query.var_names = query.var_names.str.upper()
    with pytest.raises(ValueError, match=r"shares no gene.*case"):
        annotate(query, reference, "cell_type")
    query.var_names = [f"g{i}" if i < 90 else f"G{i}" for i in range(120)]
    with pytest.warns(UserWarning, match="30 genes are not in 'reference'.*differ in case only"):
        annotate(query, reference, "cell_type")


def test_too_few_varying_genes_for_doublets_are_told_of(reference):
    query = blood(80, seed=24)
    query.X = sparse.csr_matrix(query.X.toarray() * (np.arange(120) < 35))
    with pytest.warns(UserWarning, match=r"[Dd]oublets|threshold"):
        annotate(query, reference, "cell_type", find_doublets=True)
    assert not query.obs["predicted_label_doublet"].any()


def test_labels_spelled_in_two_ways_are_told_of(reference):
    other = blood(200, seed=20)
    other.obs["cell_type"] = other.obs["cell_type"].replace({"B": "b-cells", "NK": "NK+"})
    with pytest.warns(
        UserWarning, match=r"'B' \(in 'one'\) and 'b-cells' \(in 'two'\) .*replace\({'b-cells': 'B'}\)"
    ) as told:
        annotate(blood(30, seed=21), {"one": reference, "two": other}, "cell_type")
    assert not any("NK" in str(warning.message) for warning in told)


@pytest.mark.parametrize(
    ("one", "two", "same"),
    [
        ("CD14+ Monocyte", "CD14+ monocytes", True),
        ("T_cell", "T cells", True),
        ("CD14+ Mono", "CD14- Mono", False),
        ("CD4 T", "CD8 T", False),
        ("Cells", "cell", False),
    ],
)
def test_what_counts_as_one_spelling(one, two, same):
    assert (_plain(one) == _plain(two)) is same


@pytest.mark.parametrize("n", [30, 300])
def test_a_reference_of_logarithms_is_told_of_once(reference, n):
    labelled = reference.copy()
    labelled.X = labelled.X.log1p()
    with pytest.warns(UserWarning, match="not whole numbers") as told:
        annotate(blood(n, seed=22), labelled, "cell_type")
    assert sum("not whole numbers" in str(warning.message) for warning in told) == 1


def test_a_batch_that_lies_far_from_the_reference_is_told_of(reference):
    query = blood(400, seed=23, donors=2)
    far = (query.obs["donor"] == "d1").to_numpy()
    counts = query.X.toarray()
    counts[far, 70:] = np.random.default_rng(0).poisson(6, (far.sum(), 50))
    query.X = sparse.csr_matrix(counts)
    with pytest.warns(UserWarning, match=r"1 of 2 batches \('d1' by [\d.]+ times the distance of a label"):
        annotate(query, reference, "cell_type", query_batch_key="donor")
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        annotate(blood(400, seed=24), reference, "cell_type")
    assert not any("farther from the reference" in str(warning.message) for warning in told)
