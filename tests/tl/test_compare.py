from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from scjepa._core.matching import best_matching, contingency
from scjepa.tl import compare_niches


def _adata(a: list, b: list) -> ad.AnnData:
    names = [f"c{i}" for i in range(len(a))]
    return ad.AnnData(obs=pd.DataFrame({"a": a, "b": b}, index=names), shape=(len(a), 0))


def test_niches_are_matched_with_those_they_share_most_cells_with():
    # 0 goes with y (3 cells), 1 with x (2), 2 has no partner: y and x are taken, z shares none.
    adata = _adata(["0"] * 4 + ["1"] * 3 + ["2"] * 2, ["y", "y", "y", "x", "x", "x", "z", "y", "y"])
    found = compare_niches(adata, "a", "b")
    assert found.counts.loc["0"].to_dict() == {"x": 1, "y": 3, "z": 0}
    assert found.counts.index.name == "a"
    assert found.matching["b"].fillna("-").tolist() == ["y", "x", "-"]
    assert found.matching["shared"].tolist() == [3, 2, 0]
    np.testing.assert_allclose(found.matching["of_a"], [3 / 4, 2 / 3, 0])
    np.testing.assert_allclose(found.matching["of_b"], [3 / 5, 2 / 3, np.nan])
    np.testing.assert_allclose(found.matching["jaccard"], [3 / 6, 2 / 4, 0])
    assert found.agreement == pytest.approx(5 / 9)
    assert found.n_cells == 9


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), n_a=st.integers(1, 6), n_b=st.integers(1, 6))
def test_it_agrees_with_pandas_and_sklearn_in_any_order_of_cells(seed, n_a, n_b):
    rng = np.random.default_rng(seed)
    a, b = rng.integers(n_a, size=40).astype(str), rng.integers(n_b, size=40).astype(str)
    adata = _adata(list(a), list(b))
    found = compare_niches(adata, "a", "b")
    pd.testing.assert_frame_equal(found.counts, pd.crosstab(adata.obs["a"], adata.obs["b"]), check_index_type=False)
    assert found.ari == pytest.approx(adjusted_rand_score(a, b))
    assert found.nmi == pytest.approx(normalized_mutual_info_score(a, b), abs=1e-9)
    order = rng.permutation(40)
    pd.testing.assert_frame_equal(compare_niches(adata[order], "a", "b").matching, found.matching)


def test_renamed_niches_agree_wholly():
    a = list("0011223")
    found = compare_niches(_adata(a, [f"n{name}" for name in a]), "a", "b")
    assert (found.agreement, found.nmi, found.ari) == (1, 1, 1)
    assert (found.matching["jaccard"] == 1).all()


def test_cells_without_a_niche_in_either_are_left_out():
    adata = _adata(["0", "0", "1", np.nan, "1"], ["x", "unlabelled", "y", "y", "y"])
    found = compare_niches(adata, "a", "b")
    assert found.n_cells == 3
    assert list(found.counts.columns) == ["x", "y"]
    adata.obs["b"] = ["unlabelled"] * 3 + ["y", "unlabelled"]
    with pytest.raises(ValueError, match="No cell has a niche in both"):
        compare_niches(adata, "a", "b")
    with pytest.raises(KeyError, match=r"adata.obs\['c'\] does not exist"):
        compare_niches(adata, "a", "c")


def test_nothing_is_written(snapshot):
    adata = _adata(list("0011"), list("xyxy"))
    before = snapshot(adata)
    compare_niches(adata, "a", "b")
    assert snapshot(adata) == before


def test_codes_of_minus_one_do_not_count():
    counts = contingency(np.array([0, -1, 1, 1]), np.array([1, 0, -1, 0]), (2, 2))
    np.testing.assert_array_equal(counts, [[0, 1], [1, 0]])
    assert best_matching(np.zeros((2, 3), dtype=int)) == {}
