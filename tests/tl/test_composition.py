from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from scjepa.tl import niche_composition


def _adata() -> ad.AnnData:
    obs = pd.DataFrame(
        {
            "niche": pd.Categorical(["10", "2", "2", "2", np.nan, "10"], categories=["2", "10", "never"]),
            "cell_type": ["b", "a", "a", "unlabelled", "a", np.nan],
            "section": [1, 1, 2, 2, 2, 1],
        },
        index=[f"c{i}" for i in range(6)],
    )
    return ad.AnnData(obs=obs, shape=(6, 0))


def test_cells_are_counted_and_shares_sum_to_one():
    counts, shares = niche_composition(_adata())
    assert counts.index.tolist() == ["2", "10"]
    assert counts.columns.tolist() == ["a", "b", "unlabelled"]
    np.testing.assert_array_equal(counts, [[2, 0, 1], [0, 1, 1]])
    np.testing.assert_allclose(shares.sum(axis=1), 1)
    np.testing.assert_allclose(shares.loc["2"], [2 / 3, 0, 1 / 3])
    assert (counts.index.name, counts.columns.name) == ("niche", "cell_type")


def test_the_column_of_missing_labels_is_there_only_where_needed():
    counts, _ = niche_composition(_adata(), by="section")
    assert counts.columns.tolist() == ["1", "2"]
    np.testing.assert_array_equal(counts, [[1, 2], [2, 0]])


def test_columns_swap():
    counts, shares = niche_composition(_adata(), "section", by="niche")
    assert counts.columns.tolist() == ["2", "10", "unlabelled"]
    np.testing.assert_array_equal(counts, [[1, 2, 0], [2, 0, 1]])
    np.testing.assert_allclose(shares.sum(axis=1), 1)


def test_nothing_is_written_and_what_is_missing_is_told(snapshot):
    adata = _adata()
    before = snapshot(adata)
    niche_composition(adata)
    assert snapshot(adata) == before
    with pytest.raises(KeyError, match="Did you mean 'cell_type'"):
        niche_composition(adata, by="cell_typ")
    adata.obs["niche"] = np.nan
    with pytest.raises(ValueError, match=r"No cell has a niche in adata.obs\['niche'\]"):
        niche_composition(adata)
    del adata.obs["niche"]
    with pytest.raises(KeyError, match=r"scjepa.tl.find_niches\(adata\)"):
        niche_composition(adata)
