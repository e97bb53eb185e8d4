from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from scjepa.metrics import label_transfer


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 30))
def test_it_is_the_vote_of_the_nearest_cells(seed, n_neighbors):
    rng = np.random.default_rng(seed)
    reference, query = rng.normal(size=(20, 2)), rng.normal(size=(15, 2))
    names = np.array(["a", "b", "c", "d"])
    known, truth = names[rng.integers(3, size=20)], names[1:][rng.integers(3, size=15)]
    shared = sorted(set(known) & set(truth))
    assume(shared)
    found = []
    for cell in query:
        near = np.argsort(((reference - cell) ** 2).sum(1))[:n_neighbors]
        found.append(max(sorted(set(known)), key=lambda name: (known[near] == name).sum()))
    found, scored = np.array(found), np.isin(truth, known)
    f1 = []
    for name in shared:
        right = ((found == name) & (truth == name) & scored).sum()
        f1.append(2 * right / (((found == name) & scored).sum() + (truth == name).sum()))
    result = label_transfer(reference, known, query, truth, n_neighbors=n_neighbors)
    assert result.accuracy == pytest.approx((found == truth)[scored].mean())
    assert result.macro_f1 == pytest.approx(np.mean(f1))
    assert result.majority_rate == pytest.approx(np.unique(truth[scored], return_counts=True)[1].max() / scored.sum())
    assert result.labels == tuple(shared)
    assert (result.n_cells, result.n_left_out, result.n_reference) == (scored.sum(), (~scored).sum(), 20)


def test_cells_without_a_label_neither_vote_nor_count():
    reference = np.array([[0.0], [0.1], [0.2], [9.0]])
    known = ["unlabelled", None, "L1", "L6"]
    result = label_transfer(reference, known, [[0.0], [8.0], [0.0], [0.0]], ["L1", "L6", np.nan, "WM"], n_neighbors=1)
    assert result.accuracy == result.macro_f1 == 1
    assert result.majority_rate == 0.5
    assert (result.n_cells, result.n_left_out, result.n_reference) == (2, 1, 2)
    assert result.labels == ("L1", "L6")


def test_labels_that_the_query_lacks_may_win_and_are_wrong():
    result = label_transfer([[0.0], [5.0]], ["L1", "HPC"], [[5.0], [0.0]], ["L1", "L1"], n_neighbors=1)
    assert result.accuracy == 0.5
    assert result.macro_f1 == pytest.approx(2 / 3)


def test_bad_input_is_told():
    points, labels = np.arange(6.0).reshape(3, 2), ["a", "b", "c"]
    with pytest.raises(ValueError, match=r"share no label. Reference: 'a', 'b', 'c'. Query: 'x', 'y'"):
        label_transfer(points, labels, points, ["x", "y", "x"])
    with pytest.raises(ValueError, match="reference has 2 dimensions, the query 1"):
        label_transfer(points, labels, points[:, :1], labels)
    with pytest.raises(ValueError, match="1 of 3 cells have NaN or infinite values in the embedding of the query"):
        label_transfer(points, labels, np.where(points == 0, np.nan, points), labels)
    with pytest.raises(ValueError, match="same values in the embedding of the reference"):
        label_transfer(np.ones((3, 2)), labels, points, labels)
    with pytest.raises(ValueError, match="the query has 3 cells, its labels 2"):
        label_transfer(points, labels, points, labels[1:])
    with pytest.raises(ValueError, match="None of the 3 cells has a label"):
        label_transfer(points, [None] * 3, points, labels)
    with pytest.raises(ValueError, match="n_neighbors must be 1 or more"):
        label_transfer(points, labels, points, labels, n_neighbors=0)
