from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score, silhouette_score

from scjepa._core.leiden import EmbeddingGraph
from scjepa._core.neighbors import nearest
from scjepa.metrics import average_bio, ilisi, scib_suite
from scjepa.metrics.embeddings import as_scib


def _cells(noise: float = 4.0, n: int = 240) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    truth, batches = rng.integers(4, size=n), rng.integers(2, size=n)
    points = 12 * np.eye(4)[truth] + rng.normal(scale=noise, size=(n, 4))
    return points.astype(np.float32), np.array(["B", "CD4 T", "CD8 T", "NK"])[truth], batches


@pytest.fixture
def scib(monkeypatch):
    """scib-metrics with exact neighbors in kBET: its own search compiles for most of a minute, and is random."""
    import scib_metrics as package

    def exact(points, n_neighbors):
        return as_scib(*nearest(points, n_neighbors))

    monkeypatch.setattr("scib_metrics.nearest_neighbors.pynndescent", exact)
    return package


def test_it_is_the_mean_at_the_resolution_of_the_best_nmi():
    points, labels, _ = _cells()
    resolutions = (0.3, 1.0, 2.0)
    found = average_bio(points, labels, resolutions=resolutions, seed=2)
    graph = EmbeddingGraph(points, 15)
    clusters = [graph.leiden(resolution, 2).labels for resolution in resolutions]
    nmis = [normalized_mutual_info_score(labels, c) for c in clusters]
    best = int(np.argmax(nmis))
    asw = silhouette_score(points, labels)
    assert found.resolution == resolutions[best]
    assert found.n_clusters == len(np.unique(clusters[best]))
    assert found.nmi == pytest.approx(nmis[best])
    assert found.ari == pytest.approx(adjusted_rand_score(labels, clusters[best]))
    assert found.asw == pytest.approx(asw)
    assert found.asw_scaled == pytest.approx((asw + 1) / 2)
    assert found.avg_bio == pytest.approx((found.nmi + found.ari + (asw + 1) / 2) / 3)
    assert found.avg_bio_unscaled == pytest.approx((found.nmi + found.ari + asw) / 3)


def test_better_embeddings_score_better():
    good, noisy = (average_bio(*_cells(noise)[:2]) for noise in (1.0, 8.0))
    assert good.avg_bio > 0.85 > 0.6 > noisy.avg_bio
    assert good.nmi == good.ari == 1


def test_cells_without_a_label_take_no_part():
    points, labels, _ = _cells()
    more = np.vstack([points, points[:30] + 1])
    with_unlabelled = average_bio(more, [*labels, *["unlabelled"] * 15, *[None] * 15])
    assert with_unlabelled == average_bio(points, labels)


def test_bad_input_is_told():
    points, labels, _ = _cells()
    with pytest.raises(ValueError, match="240 labelled cells have 1 labels"):
        average_bio(points, ["B"] * 240)
    with pytest.raises(ValueError, match="240 labelled cells have 240 labels"):
        average_bio(points, np.arange(240))
    with pytest.raises(ValueError, match="All 240 cells have the same values"):
        average_bio(np.ones_like(points), labels)
    with pytest.raises(ValueError, match="1 of 240 cells have NaN"):
        average_bio(np.where(np.arange(240)[:, None] == 0, np.nan, points), labels)
    with pytest.raises(ValueError, match="240 cells, labels 239"):
        average_bio(points, labels[1:])


def test_the_suite_is_one_row_of_scib_metrics(scib):
    points, labels, batches = _cells()
    points[:, 0] += 3 * batches
    before = points + 20 * batches[:, None] * [1, -1, 0.5, 0]
    row = scib_suite(points, batches.astype(str), labels, uncorrected=before)
    assert row["silhouette_label"] == pytest.approx((silhouette_score(points, labels) + 1) / 2, abs=1e-4)
    assert row["ilisi"] == pytest.approx(ilisi(points, batches), abs=1e-6)
    assert row["isolated_labels"] == pytest.approx(scib.isolated_labels(points, labels, batches), abs=1e-6)
    bio = ["isolated_labels", "nmi_kmeans", "ari_kmeans", "silhouette_label", "clisi"]
    batch = ["bras", "ilisi", "kbet", "graph_connectivity", "pcr_comparison"]
    assert list(row.index) == [*bio, *batch, "bio", "batch", "total"]
    assert row.between(0, 1).all()
    assert row["bio"] == pytest.approx(row[bio].mean())
    assert row["total"] == pytest.approx(0.6 * row["bio"] + 0.4 * row[batch].mean())
    assert row["pcr_comparison"] > 0.5

    names = pd.Series(labels).astype("category")
    more = np.vstack([points, points[:5]])
    without = scib_suite(more, [*batches, *[0] * 5], [*names, *["unlabelled"] * 5])
    assert np.isnan(without["pcr_comparison"])
    assert without["clisi"] == pytest.approx(row["clisi"], abs=1e-6)
    assert without["batch"] == pytest.approx(row[batch[:4]].mean(), abs=1e-6)


@pytest.mark.usefixtures("scib")
def test_the_suite_refuses_one_batch_and_one_label():
    points, labels, batches = _cells()
    with pytest.raises(ValueError, match="labelled cells are of one batch"):
        scib_suite(points, [0] * 240, labels)
    with pytest.raises(ValueError, match="240 labelled cells have 1 labels"):
        scib_suite(points, batches, ["B"] * 240)
    with pytest.raises(ValueError, match="the uncorrected embedding has 3 cells, 240 were expected"):
        scib_suite(points, batches, labels, uncorrected=points[:3])
    with pytest.raises(ValueError, match="All 240 cells have the same values"):
        scib_suite(np.ones_like(points), batches, labels)
