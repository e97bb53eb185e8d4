"""What one's own function gives, in the order of the cells."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from scjepa.benchmark.method import MethodError, part_of

CELLS = pd.Index(["c", "a", "b"])


def test_rows_that_are_named_are_put_in_order():
    table = pd.DataFrame({"x": [1.0, 2, 3], "y": [4.0, 5, 6]}, index=["a", "b", "c"])
    np.testing.assert_array_equal(part_of(table, CELLS)["embedding"], [[3, 6], [1, 4], [2, 5]])
    assert list(part_of(table["x"].astype(int), CELLS)["clusters"]) == [3, 1, 2]
    clusters = pd.Series(pd.Categorical(["u", "v", "u"]), index=["a", "b", "c"])
    assert list(part_of(clusters, CELLS)["clusters"]) == ["u", "u", "v"]


def test_rows_that_are_only_counted_stay():
    assert list(part_of(pd.Series(["x", "y", "z"]), CELLS)["clusters"]) == ["x", "y", "z"]
    assert list(part_of(pd.Series(["x", "y", "z"], index=CELLS), CELLS)["clusters"]) == ["x", "y", "z"]
    twice = pd.Index(["a", "a", "b"])
    assert list(part_of(pd.Series(["x", "y", "z"], index=twice), twice)["clusters"]) == ["x", "y", "z"]


@pytest.mark.parametrize(
    ("index", "message"),
    [
        (["a", "b", "d"], r"of the Series has 'd', which is none of the cells \('c', ...\).*adata.obs_names"),
        ([2, 0, 1], "has 2, which is none of the cells"),
        (["a", "b"], "has 2 of 3 cells; 'c' is not among them"),
        (["a", "b", "c", "b"], "has 'b' twice"),
    ],
)
def test_rows_of_other_cells_are_told(index, message):
    with pytest.raises(MethodError, match=message):
        part_of(pd.Series(range(len(index)), index=index), CELLS)


def test_whole_numbers_and_names_are_clusters():
    for values in (np.array([0.0, 1, 1]), [0, 1, 1], ("a", "b", "b"), np.array([True, False, False])):
        assert part_of(values, CELLS)["clusters"].shape == (3,)
    assert part_of(([1, 2], [3, 4], [5, 6]), CELLS)["embedding"].shape == (3, 2)


def test_a_dict_may_have_several_parts():
    both = {"embedding": np.ones((3, 2)), "clusters": [1, 2, 2], "info": {"epochs": 3}}
    assert part_of(both, CELLS) is both
