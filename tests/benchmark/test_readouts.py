"""Read-outs: the same for every method."""

from __future__ import annotations

import json

import numpy as np
import pytest

from scjepa.benchmark import READOUTS, MethodResult, Scoring, run
from scjepa.benchmark.controls import harmony
from scjepa.benchmark.score import score
from scjepa.benchmark.suites.tissue import make_tasks, read_units
from scjepa.tl import NicheReadout, aggregate, standardize


def task_of(data, kinds="auto"):
    return make_tasks(read_units(data, "region"), kinds)[-1]


def result(**parts) -> MethodResult:
    return MethodResult("m", "own", 0, **parts)


@pytest.mark.usefixtures("no_mixing")
def test_read_outs_are_those_of_the_quality_harness(tissue):
    task = task_of({"a": tissue})
    rng = np.random.default_rng(0)
    near, cells = rng.normal(size=(80, 40)), rng.normal(size=(80, 25))
    scored = score(task, result(embedding=near, cell_embedding=cells), Scoring((1.0,), 1))
    assert list(scored.embeddings) == ["plain", "z30", "hops", "niche", "niche+X"]
    np.testing.assert_array_equal(scored.embeddings["plain"], near)
    np.testing.assert_array_equal(scored.embeddings["z30"], standardize(near, groups=task.sections, n_comps=30))
    rings = aggregate(
        standardize(cells, groups=task.sections, n_comps=20),
        connectivities=tissue.obsp["spatial_connectivities"],
        n_hops=3,
    )
    np.testing.assert_array_equal(scored.embeddings["hops"], rings)
    scored = score(task, result(embedding=near), Scoring((1.0,), 1))
    assert list(scored.embeddings) == ["plain", "z30"]


@pytest.mark.usefixtures("no_mixing")
def test_aligned_read_outs_give_sections_one_covariance(tissue, other):
    task = task_of({"a": tissue, "b": other})
    rng = np.random.default_rng(0)
    both = rng.normal(size=(task.adata.n_obs, 40))
    cells = rng.normal(size=(task.adata.n_obs, 25))
    names = ("z30", "aligned30", "aligned_hops")
    scored = score(task, result(embedding=both, cell_embedding=cells), Scoring((1.0,), 1, names))
    assert list(scored.embeddings) == list(names)
    aligned = standardize(both, groups=task.sections, n_comps=30, align="covariance")
    np.testing.assert_array_equal(scored.embeddings["aligned30"], aligned)
    assert not np.allclose(scored.embeddings["aligned30"], scored.embeddings["z30"])
    each = standardize(cells, groups=task.sections, n_comps=20, align="covariance")
    rings = aggregate(each, connectivities=task.adata.obsp["spatial_connectivities"], n_hops=3)
    np.testing.assert_array_equal(scored.embeddings["aligned_hops"], rings)


def niche_of(task, align="auto", **sources):
    """Return the read-out of sources and what it chose."""
    found = NicheReadout(align=align)
    graph = task.adata.obsp["spatial_connectivities"]
    return found.fit_transform(sources, graph, task.sections), found.describe()


@pytest.mark.usefixtures("no_mixing")
def test_the_read_out_of_niches_is_that_of_tl_alone_and_beside_expression(tissue):
    task = task_of({"a": tissue})
    cells = np.random.default_rng(0).normal(size=(80, 25)) + task.adata.obsm["spatial"][:, :1] / 20
    found = result(embedding=cells, cell_embedding=cells)
    scored = score(task, found, Scoring((1.0,), 1, ("plain", "niche", "niche+X", "aligned_niche", "aligned_niche+X")))
    for name, align in (("niche", "auto"), ("aligned_niche", "covariance")):
        alone, chosen = niche_of(task, align, embedding=cells)
        np.testing.assert_array_equal(scored.embeddings[name], alone)
        assert scored.chosen[name] == chosen.replace("embedding", "cell embedding")
        beside, _ = niche_of(task, align, X=tissue.X, embedding=cells)
        np.testing.assert_array_equal(scored.embeddings[f"{name}+X"], beside)
        assert "components of expression" in scored.chosen[f"{name}+X"]
    assert "plain" not in scored.chosen
    assert READOUTS["niche+X"](result(embedding=cells), task) is None


@pytest.mark.usefixtures("no_mixing")
def test_expression_across_technologies_is_that_of_the_genes_that_all_measured(tissue, other):
    task = task_of({"a": tissue, "b": other})
    cells = np.random.default_rng(0).normal(size=(task.adata.n_obs, 8))
    values = READOUTS["niche+X"](result(cell_embedding=cells), task)
    shared = task.adata[:, list(task.shared)]
    assert shared.n_vars == 5
    np.testing.assert_array_equal(values, niche_of(task, X=shared.X, cells=cells)[0])


@pytest.mark.usefixtures("no_mixing")
def test_what_the_read_out_of_niches_chose_is_kept_with_the_run_and_what_it_cannot_do_is_a_reason(tissue):
    tissue.obsm["X_mine"] = np.random.default_rng(0).normal(size=(80, 6))
    scoring = Scoring((1.0,), 1, ("plain", "niche", "niche+X"))
    table = run(tissue, label="region", methods=["neighborhood_pca", "linear"], seeds=1, scoring=scoring)
    infos = dict(zip(table.runs["method"], map(json.loads, table.runs["info"]), strict=True))
    assert "components of expression" in infos["linear"]["chosen"]
    assert "readout.niche" not in infos["linear"]
    assert "components of cell embedding" in infos["neighborhood_pca"]["readout.niche"]
    assert set(table.table_1().query("method == 'linear'")["readout"]) == {"plain"}
    scored = score(task_of({"a": tissue}), result(embedding=np.eye(80), cell_embedding=np.ones((80, 3))), scoring)
    reasons = {row["readout"]: row["reason"] for row in scored.rows if row.get("reason")}
    assert set(reasons) == {"niche", "niche+X"}
    assert "None of the 3 features varies" in reasons["niche"]


def distance_of_means(values, batches) -> float:
    """Return how far the means of two batches lie apart, in standard deviations."""
    one, two = (values[batches == batch].mean(axis=0) for batch in np.unique(batches))
    return float(np.linalg.norm(one - two) / values.std())


@pytest.mark.parametrize("several", [True, False], ids=["technologies", "sections"])
def test_harmony_follows_a_read_out_and_brings_together_what_is_to_mix(tissue, other, several):
    task = task_of({"a": tissue, "b": other} if several else {"a": tissue}, "auto" if several else "sections")
    assert list(task.batches) == list(task.technologies if several else task.sections)
    rng = np.random.default_rng(0)
    found = result(embedding=rng.normal(size=(task.adata.n_obs, 6)) + (task.batches == task.batches[0])[:, None])
    before, after = (READOUTS[name](found, task) for name in ("plain", "plain+harmony"))
    np.testing.assert_array_equal(after, harmony(before, task.batches))
    assert after.shape == before.shape
    assert distance_of_means(after, task.batches) < 0.7 * distance_of_means(before, task.batches)
    rings = READOUTS["aligned_hops+harmony"](result(cell_embedding=found.embedding), task)
    assert rings.shape == (task.adata.n_obs, 4 * 6)
    assert READOUTS["hops+harmony"](found, task) is None


@pytest.mark.usefixtures("no_mixing")
def test_harmony_of_one_section_or_of_a_constant_is_no_score(tissue, other):
    scoring = Scoring((1.0,), 1, ("plain", "plain+harmony"))
    values = np.random.default_rng(0).normal(size=(40, 4))
    assert list(score(task_of({"b": other}), result(embedding=values), scoring).embeddings) == ["plain"]
    scored = score(task_of({"a": tissue}, "sections"), result(embedding=np.ones((80, 4))), scoring)
    assert [("same values" in row["reason"], row["readout"]) for row in scored.rows] == [
        (True, "plain"),
        (True, "plain+harmony"),
    ]


def test_a_read_out_that_cannot_be_made_is_told_before_anything_runs(monkeypatch):
    with pytest.raises(ValueError, match=r"Did you mean 'hops\+harmony'"):
        Scoring(readouts=("hops+harmon",))
    monkeypatch.setattr("scjepa.benchmark.score.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"'z30.harmony' needs harmonypy: pip install harmonypy"):
        Scoring(readouts=("plain", "z30+harmony"))
