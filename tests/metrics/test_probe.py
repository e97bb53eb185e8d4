from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, f1_score

from scjepa._core.neighbors import spatial_blocks
from scjepa.metrics import block_folds, block_probe
from scjepa.metrics.probe import _near, _splits


def _tissue(n: int = 600) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Embedding in which two directions tell three stripes of tissue apart, with noise; labels; coordinates."""
    rng = np.random.default_rng(0)
    places = rng.random((n, 2))
    labels = np.array(["L1", "L2/3", "L6"])[np.floor(places[:, 0] * 3).astype(int)]
    embedding = rng.normal(size=(n, 6))
    embedding[:, 0] += 4 * (labels == "L1")
    embedding[:, 1] += 4 * (labels == "L6")
    return embedding * [1, 100, 1, 1, 1, 1], labels, places


def test_what_a_line_can_tell_is_found_and_noise_is_not():
    embedding, labels, places = _tissue()
    result = block_probe(embedding, labels, places)
    assert result.accuracy > 0.85
    noise = block_probe(np.random.default_rng(1).normal(size=(600, 6)), labels, places)
    assert noise.accuracy < 0.5
    assert noise.majority_rate == pytest.approx(np.unique(labels, return_counts=True)[1].max() / 600)


def test_an_embedding_that_only_knows_its_place_is_not_rewarded():
    """Labels that lie in patches at random: knowing the place helps with a random split, not with blocks."""
    rng = np.random.default_rng(3)
    places = rng.random((800, 2))
    patch = np.floor(places * 5).astype(int) @ [5, 1]
    labels = rng.permutation(np.arange(25) % 2)[patch]
    centers = rng.random((60, 2))
    embedding = np.exp(-(((places[:, None] - centers) / 0.1) ** 2).sum(-1))
    by_block = block_probe(embedding, labels, places, block_size=35).accuracy
    by_cell = block_probe(embedding, labels, places, block_size=1, margin=0).accuracy
    assert by_cell > 0.85
    assert by_block < by_cell - 0.15


def test_folds_are_those_of_the_probe_and_part_the_labelled_cells():
    embedding, labels, places = _tissue()
    labels = labels.astype(object)
    labels[:40] = "unlabelled"
    folds, probe = block_folds(labels, places), block_probe(embedding, labels, places)
    assert len(folds) == 5
    assert folds.n_blocks == probe.n_blocks
    assert folds.kept.sum() == 560
    assert [folds.names[code] for code in folds.truth] == list(labels[40:])
    assert sorted(np.concatenate([test for _, test in folds])) == list(range(560))
    for (train, test), row in zip(folds, probe.folds.itertuples(), strict=True):
        assert (len(train), len(test)) == (row.n_train, row.n_test)
        assert not set(train) & set(test)


def test_scores_are_those_of_the_predictions():
    embedding, labels, places = _tissue()
    labels = labels.astype(object)
    labels[:40] = "unlabelled"
    labels[40:50] = None
    result = block_probe(embedding, labels, places)
    assert (result.predicted[:50] == None).all()  # noqa: E711
    truth, found = labels[50:].astype(str), result.predicted[50:].astype(str)
    assert result.n_cells == 550
    assert result.accuracy == pytest.approx((truth == found).mean())
    assert result.balanced_accuracy == pytest.approx(balanced_accuracy_score(truth, found))
    assert result.macro_f1 == pytest.approx(f1_score(truth, found, average="macro"))
    assert result.folds["n_test"].sum() == 550
    assert np.average(result.folds["accuracy"], weights=result.folds["n_test"]) == pytest.approx(result.accuracy)
    assert list(result.folds.columns) == ["fold", "n_train", "n_test", "accuracy", "balanced_accuracy", "macro_f1"]


def test_blocks_are_whole_and_neighbors_of_test_cells_do_not_train():
    _, labels, places = _tissue(400)
    truth, sections = np.unique(labels, return_inverse=True)[1], np.arange(400) % 2
    blocks = spatial_blocks(places, sections, 40)
    tested = []
    for train, test in _splits(truth, blocks, 4, 0, _near(places, sections, 10)):
        assert not set(blocks[train]) & set(blocks[test])
        tested += test.tolist()
        for cell in train:
            others = np.flatnonzero(sections == sections[cell])
            near = others[np.argsort(((places[others] - places[cell]) ** 2).sum(1))[1:11]]
            assert not set(near) & set(test)
        for cell in test[:20]:
            others = np.flatnonzero(sections == sections[cell])
            near = others[np.argsort(((places[others] - places[cell]) ** 2).sum(1))[1:11]]
            assert not set(near) & set(train)
    assert sorted(tested) == list(range(400))


def test_seeds_repeat_and_deal_blocks_otherwise():
    embedding, labels, places = _tissue(300)
    one, again, other = (block_probe(embedding, labels, places, n_folds=3, seed=seed) for seed in (0, 0, 1))
    assert (one.predicted == again.predicted).all()
    assert not one.folds.equals(other.folds)


def test_blocks_of_each_label_are_spread_over_the_folds():
    _, labels, places = _tissue(900)
    truth = np.unique(labels, return_inverse=True)[1]
    blocks = spatial_blocks(places, None, 20)
    for _, test in _splits(truth, blocks, 4, 3, _near(places, np.zeros(900, dtype=int), 0)):
        assert 150 < len(test) < 300
        assert (np.bincount(truth[test]) / np.bincount(truth) > 0.15).all()


def test_bad_input_is_told():
    embedding, labels, places = _tissue(120)
    with pytest.raises(ValueError, match="two labels or more; all 120 labelled cells are 'a'"):
        block_probe(embedding, ["a"] * 120, places)
    with pytest.raises(ValueError, match=r"between 2 and the number of blocks \(1\), found 5.*smaller block_size"):
        block_probe(embedding, labels, places, block_size=200)
    with pytest.raises(ValueError, match="All 120 cells have the same values"):
        block_probe(np.zeros((120, 4)), labels, places)
    with pytest.raises(ValueError, match="1 of 120 cells have NaN"):
        block_probe(np.where(np.arange(120)[:, None] == 7, np.nan, embedding), labels, places)
    with pytest.raises(ValueError, match="coordinates has 119 rows"):
        block_probe(embedding, labels, places[1:])
    with pytest.raises(ValueError, match="sections has 3 entries for 120 cells"):
        block_probe(embedding, labels, places, ["a", "b", "c"])
    with pytest.raises(ValueError, match="The embedding has 120 cells, labels 119"):
        block_probe(embedding, labels[1:], places)
    with pytest.raises(ValueError, match="All training cells of a fold are near"):
        block_probe(embedding, labels, places, block_size=20, margin=119)
    with pytest.raises(ValueError, match="margin must be"):
        block_probe(embedding, labels, places, margin=-1)
