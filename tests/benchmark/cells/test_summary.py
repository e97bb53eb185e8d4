"""Tables, paired differences, the vote of neighbors, and figures."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.model_selection import cross_val_score
from sklearn.neighbors import KNeighborsClassifier

from scjepa.benchmark import CellScoring, run_cells
from scjepa.benchmark.figures import robustness, score_bars, umaps_of_cells
from scjepa.benchmark.suites.cell_tasks import TargetCells, knn_accuracy
from scjepa.benchmark.suites.cells import differences, table


def _rows(scores: dict[str, list[float]], metric: str = "avg_bio", **about) -> pd.DataFrame:
    case = {"data": "x", "task": "zero_shot", "settings": "s", "configuration": "c", "readout": "cls", "group": "all"}
    rows = [
        {
            **case,
            "method": method,
            "seed": seed,
            "metric": metric,
            "value": value,
            "n_cells": 5,
            "reason": None,
            **about,
        }
        for method, values in scores.items()
        for seed, value in enumerate(values)
    ]
    empty = {"resolution": np.nan, "leiden_seed": np.nan}
    return pd.DataFrame(rows).assign(seconds=1.0, cpu_seconds=2.0, peak_gib=0.5, **empty)


def test_differences_are_paired_by_seed_with_a_t_interval():
    a, b = [0.5, 0.8, 0.6, 0.9], [0.4, 0.75, 0.55, 0.7]
    found = differences(_rows({"celljepa": a, "reconstruction_only": b})).iloc[0]
    expected = stats.ttest_1samp(np.subtract(a, b), 0).confidence_interval(0.95)
    assert found["difference"] == pytest.approx(0.1)
    assert (found["low"], found["high"]) == pytest.approx((expected.low, expected.high))
    assert found["seeds"] == 4
    fewer = differences(_rows({"celljepa": a, "reconstruction_only": b[:1]})).iloc[0]
    assert fewer["difference"] == pytest.approx(0.1)
    assert np.isnan(fewer["low"])


def test_methods_in_several_configurations_are_not_paired():
    rows = _rows({"celljepa": [0.5], "untrained": [0.4]})
    again = _rows({"celljepa": [0.6]}, configuration="other")
    assert len(differences(rows)) == 1
    assert differences(pd.concat([rows, again])).empty


def test_the_table_has_means_and_spreads_over_seeds():
    rows = pd.concat([_rows({"scvi": [0.2, 0.4]}), _rows({"scvi": [0.5, 0.5]}, metric="nmi")])
    found = table(rows).iloc[0]
    assert found["avg_bio"] == pytest.approx(0.3)
    assert found["avg_bio_std_seeds"] == pytest.approx(np.std([0.2, 0.4], ddof=1))
    assert found["nmi_std_seeds"] == 0
    assert found["seeds"] == 2


def test_the_vote_of_neighbors_is_that_of_scikit_learn():
    rng = np.random.default_rng(0)
    labels = np.array(["a", "b", "c"], dtype=object)[rng.integers(0, 3, 100)]
    values = rng.normal(size=(100, 4)) + 2.0 * (labels == "a")[:, None]
    expected = cross_val_score(KNeighborsClassifier(15), values, labels.astype(str), cv=5).mean()
    assert knn_accuracy(values, labels) == pytest.approx(expected)
    assert 0.4 < expected < 0.9


def test_scoring_refuses_what_cannot_be():
    for changes, match in (
        ({"readouts": ("clss",)}, "Did you mean 'cls'"),
        ({"fractions": (0.5, 1.5)}, "Shares of molecules"),
        ({"resolutions": ()}, "a resolution or more"),
        ({"kept": "all"}, "kept"),
        ({"test_size": 1.0}, "test_size"),
        ({"folds": 1}, "folds"),
    ):
        with pytest.raises(ValueError, match=match):
            CellScoring(**changes)


def test_maps_have_a_panel_for_each_method_and_a_row_for_batches():
    rng = np.random.default_rng(0)
    labels = np.array(["a", "b"], dtype=object)[rng.integers(0, 2, 40)]
    target = TargetCells("x", None, labels, None)
    embeddings = {("celljepa", "cls"): rng.normal(size=(40, 3)), ("celljepa", "genes"): rng.normal(size=(40, 3))}
    embeddings["hvg_pca", "plain"] = rng.normal(size=(40, 3))
    figure = umaps_of_cells(target, embeddings, {("celljepa", "cls"): "AvgBIO 0.50"})
    titles = [ax.get_title() for ax in figure.axes]
    assert titles == ["CellJEPA, cls\nAvgBIO 0.50", "HVG-PCA"]
    batched = TargetCells("x", None, labels, labels[::-1])
    assert len(umaps_of_cells(batched, embeddings, {}).axes) == 4
    assert umaps_of_cells(target, {}, {}) is None


def test_figures_show_means_and_every_seed(cells, small, good):
    def other(adata, seed):
        return good(adata)[:, :2] + seed

    tasks = ["zero_shot", "dropout"]
    results = run_cells(cells, **small, methods={"other": other, "hvg_pca": None}, tasks=tasks, seeds=2)
    figures = results.figures()
    assert list(figures) == ["umap", "avg_bio", "dropout"]
    first = figures["avg_bio"].axes[0]
    assert [text.get_text() for text in first.get_yticklabels()] == ["HVG-PCA", "other"]
    mean = results.table().set_index(["method", "task"]).sort_index().loc[("hvg_pca", "zero_shot"), "avg_bio"].item()
    assert first.patches[0].get_width() == pytest.approx(mean)
    assert [len(points.get_offsets()) for points in first.collections] == [2, 2]
    curve = figures["dropout"].axes[0].lines[0]
    assert sorted(curve.get_xdata()) == [30, 100]
    assert score_bars(results.rows.iloc[:0]) is None
    assert robustness(results.rows.iloc[:0]) is None
