"""Scores of a result: those of the metrics, for all cells and each technology."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from scjepa.benchmark import MethodResult, Scoring
from scjepa.benchmark.score import score
from scjepa.benchmark.suites.tissue import make_tasks, read_units
from scjepa.metrics import clustering_scores, niche_continuity


def task_of(data, kinds="auto", label="region"):
    return make_tasks(read_units(data, label), kinds)[-1]


def table(scored) -> pd.DataFrame:
    return pd.DataFrame(scored.rows)


def result(**parts) -> MethodResult:
    return MethodResult("m", "own", 0, **parts)


@pytest.mark.usefixtures("no_mixing")
def test_scores_are_those_of_the_metrics_for_each_technology(tissue, other):
    task = task_of({"a": tissue, "b": other})
    values = np.random.default_rng(0).normal(size=(120, 4)).astype(np.float32) + task.adata.obsm["spatial"][:, :1] / 20
    found = table(score(task, result(embedding=values), Scoring((0.6, 1.0), 2, ("plain",))))
    theirs = clustering_scores(values, task.labels, resolutions=(0.6, 1.0), seeds=range(2), groups=task.technologies)
    whole = clustering_scores(values, task.labels, resolutions=(0.6, 1.0), seeds=range(2)).assign(group="all")
    for metric in ("nmi", "ari"):
        for matched, name in ((False, metric), (True, f"{metric}_matched")):
            own = found[found["metric"] == name].sort_values(["group", "leiden_seed", "resolution"])
            both = pd.concat([theirs, whole])
            both = both[both["matched"] == matched].sort_values(["group", "seed", "resolution"])
            np.testing.assert_allclose(own["value"], both[metric], atol=1e-12)
            assert list(own["group"]) == list(both["group"])
    assert set(found.loc[found["metric"] == "nmi", "n_cells"]) == {80, 40, 120}
    assert {"ilisi_technology", "mmd_technology", "transfer_accuracy"} <= set(found["metric"])
    assert set(found.loc[found["metric"] == "transfer_macro_f1", "group"]) == {"T to U", "U to T"}


def test_continuity_is_that_of_the_clusters_that_maps_show(tissue, quick):
    task = task_of({"a": tissue}, "within")
    scored = score(task, result(embedding=task.adata.obsm["spatial"]), quick)
    expected = niche_continuity(scored.clusters["plain"], task.adata.obsm["spatial"], task.sections)
    found = table(scored).set_index("metric")["value"]
    assert found["pas"] == expected.pas
    assert found["like_neighbors"] == expected.like_neighbors
    assert len(set(scored.clusters["plain"])) == 2


@pytest.mark.usefixtures("no_mixing")
def test_own_clusters_are_scored_as_they_are(tissue, quick):
    task = task_of({"a": tissue})
    perfect = np.asarray(task.labels)
    found = table(score(task, result(clusters=perfect), quick))
    assert set(found["readout"]) == {"own"}
    assert found.set_index("metric").loc["nmi_matched", "value"] == 1
    at = table(score(task, result(clusters=perfect), quick, resolutions=[0.8])).set_index("metric")
    assert at.loc["nmi", "value"] == 1
    assert at.loc["nmi", "resolution"] == 0.8


@pytest.mark.usefixtures("no_mixing")
def test_own_clusters_at_several_resolutions_are_scored_at_each_and_drawn_at_the_matched_number(tissue, quick):
    task = task_of({"a": tissue})
    perfect = np.asarray(task.labels)
    one = np.full(len(perfect), "0")
    found = result(clusters=np.stack([one, perfect], axis=1), info={"matched_resolution": 0.7})
    scored = score(task, found, quick, resolutions=[0.6, None])
    at = table(scored).set_index("metric")
    assert at.loc["nmi", "value"] == 0
    assert at.loc["nmi", "resolution"] == 0.6
    assert at.loc["nmi_matched", "value"] == 1
    assert at.loc["nmi_matched", "resolution"] == 0.7
    assert set(scored.clusters["own"]) == set(perfect)


def test_a_constant_embedding_is_a_reason_and_no_score(tissue, quick):
    task = task_of({"a": tissue}, "within")
    found = table(score(task, result(embedding=np.ones((40, 3))), quick))
    assert found["value"].isna().all()
    assert "same values" in found["reason"].iloc[0]


@pytest.mark.usefixtures("no_mixing")
def test_one_label_in_a_technology_is_a_reason_for_that_technology(tissue, other, quick):
    other.obs["region"] = "left"
    task = task_of({"a": tissue, "b": other})
    values = np.random.default_rng(0).normal(size=(120, 3))
    found = table(score(task, result(embedding=values), quick))
    rows = found[found["metric"] == "nmi"].set_index("group")
    assert "one label, 'left'" in rows.loc["U", "reason"]
    assert rows.loc[["T", "all"], "value"].notna().all()


@pytest.mark.usefixtures("no_mixing")
def test_a_technology_without_labels_says_so_and_the_others_are_scored(tissue, other, quick):
    other.obs["region"] = np.nan
    task = task_of({"a": tissue, "b": other})
    values = np.random.default_rng(0).normal(size=(120, 3))
    for given in ({"embedding": values}, {"clusters": np.arange(120) % 3}):
        found = table(score(task, result(**given), quick))
        (told,) = found[found["reason"].notna()].to_dict("records")
        assert (told["group"], told["n_cells"]) == ("U", 0)
        assert "None of the 40 cells has a label" in told["reason"]
        agreement = found[found["metric"].str.match("(nmi|ari)") & found["value"].notna()]
        assert set(agreement["group"]) == {"T", "all"}


def test_a_section_without_labels_says_so_beside_one_with_labels(tissue, quick):
    tissue.obs["region"] = tissue.obs["region"].astype(object).where(tissue.obs["section"] == "s1")
    (one, two) = make_tasks(read_units({"a": tissue}, "region"), "within")
    values = np.random.default_rng(0).normal(size=(40, 3))
    assert "reason" not in table(score(one, result(embedding=values), quick))
    told = table(score(two, result(embedding=values), quick)).dropna(subset="reason")
    assert list(told["metric"]) == ["nmi"]
    assert "None of the 40 cells has a label" in told["reason"].iloc[0]


@pytest.mark.usefixtures("no_mixing")
def test_without_labels_mixing_and_continuity_are_measured(tissue, quick):
    task = task_of({"a": tissue}, label=None)
    found = table(score(task, result(embedding=np.random.default_rng(0).normal(size=(80, 3))), quick))
    assert set(found["metric"]) == {"ilisi_section", "mmd_section", "pas", "chaos", "like_neighbors"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"resolutions": ()}, "resolutions"),
        ({"resolutions": (0.5, -1)}, "resolutions"),
        ({"leiden_seeds": 0}, "leiden_seeds"),
        ({"readouts": ("rings",)}, "Unknown read-out 'rings'"),
        ({"readouts": ()}, "Name a read-out"),
    ],
)
def test_scoring_is_checked(options, message):
    with pytest.raises(ValueError, match=message):
        Scoring(**options)
