from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from scjepa._core.leiden import EmbeddingGraph
from scjepa.metrics import ari, clustering_scores, nmi

RESOLUTIONS = (0.5, 1.5, 3.0)


def _sections(seed: int = 0, noise: float = 8.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    truth = rng.integers(4, size=240)
    technologies = np.array(["MERFISH"] * 60 + ["STARmap"] * 180)
    embedding = 20 * np.eye(4)[truth] + np.random.default_rng(seed).normal(scale=noise, size=(240, 4))
    embedding[:60] += np.random.default_rng(seed + 1).normal(scale=noise, size=(60, 4))
    return embedding.astype(np.float32), np.array([*"abcd"])[truth], technologies


def test_each_technology_is_scored_on_joint_clusters_and_weighted_by_its_labelled_cells():
    embedding, labels, technologies = _sections()
    labels = pd.Series(labels).mask(np.arange(240) < 20, "unlabelled")
    options = {"groups": technologies, "resolutions": RESOLUTIONS, "seeds": (0, 1), "matched": False}
    table = clustering_scores(embedding, labels, weighted=True, **options)
    alone = clustering_scores(embedding, labels, **options)
    pd.testing.assert_frame_equal(table[table["group"] != "weighted"].reset_index(drop=True), alone)
    table = table.groupby("group").mean()
    graph = EmbeddingGraph(embedding, 15)
    clusters = [graph.leiden(r, s).labels for s in (0, 1) for r in RESOLUTIONS]
    for name, score in (("nmi", nmi), ("ari", ari)):
        by_hand = {}
        for technology in ("MERFISH", "STARmap"):
            cells = technologies == technology
            by_hand[technology] = np.mean([score(labels[cells], c[cells]) for c in clusters])
            assert table.loc[technology, name] == pytest.approx(by_hand[technology])
        weighted = (40 * by_hand["MERFISH"] + 180 * by_hand["STARmap"]) / 220
        assert table.loc["weighted", name] == pytest.approx(weighted)
    assert table["n_cells"].to_dict() == {"MERFISH": 40, "STARmap": 180, "weighted": 220}


def test_groups_of_clustering_scores_are_the_rows_behind_it():
    embedding, labels, technologies = _sections()
    rows = clustering_scores(embedding, labels, groups=technologies, resolutions=(1.0,))
    assert rows["group"].tolist() == ["MERFISH", "STARmap"] * 2
    assert rows["n_cells"].tolist() == [60, 180] * 2
    assert rows["matched"].tolist() == [False, False, True, True]
    joint = clustering_scores(embedding, labels, resolutions=(1.0,))
    assert rows["n_clusters"].tolist() == joint["n_clusters"].repeat(2).tolist()


def test_a_technology_without_labels_has_no_row():
    embedding, labels, technologies = _sections()
    labels = np.where(technologies == "MERFISH", "unlabelled", labels)
    table = clustering_scores(embedding, labels, groups=technologies, weighted=True, resolutions=(1.0,), matched=False)
    table = table.set_index("group")
    assert table.index.tolist() == ["STARmap", "weighted"]
    assert table.loc["weighted", "nmi"] == pytest.approx(table.loc["STARmap", "nmi"])


def test_bad_input_is_told():
    embedding, labels, technologies = _sections()
    with pytest.raises(ValueError, match="1 cells have no value in groups; the first is row 0"):
        clustering_scores(embedding, labels, groups=[None, *technologies[1:]])
    with pytest.raises(ValueError, match="groups has 239 entries for 240 cells"):
        clustering_scores(embedding, labels, groups=technologies[1:])
    with pytest.raises(ValueError, match="A group is called 'weighted'"):
        clustering_scores(embedding, labels, groups=["weighted"] * 240, weighted=True, resolutions=(1.0,))
    with pytest.raises(ValueError, match="groups"):
        clustering_scores(embedding, labels, weighted=True)
    with pytest.raises(ValueError, match="NaN or infinite"):
        clustering_scores(np.full_like(embedding, np.nan), labels, groups=technologies)
