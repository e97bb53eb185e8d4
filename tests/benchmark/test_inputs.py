from __future__ import annotations

import numpy as np
import pytest
from anndata import AnnData, read_h5ad
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from scjepa.benchmark.inputs import digest, prepare, restore, with_counts


@settings(deadline=None, max_examples=30)
@given(st.lists(st.booleans(), min_size=1, max_size=12).filter(any))
def test_every_cell_gets_its_own_row_back(present):
    has = np.array(present)
    counts = np.where(has[:, None], np.arange(1, len(has) + 1)[:, None], 0)
    given_cells, found = with_counts(AnnData(sparse.csr_matrix(counts.astype(np.float32))))
    np.testing.assert_array_equal(found, has)
    assert given_cells.n_obs == has.sum()
    output = {"embedding": given_cells.X.toarray(), "clusters": given_cells.X.toarray().ravel().astype(int)}
    filled = restore(output, found)
    np.testing.assert_array_equal(np.ravel(filled["embedding"]), counts.ravel())
    expected = [str(count) if count else "no counts" for count in counts.ravel()]
    assert [str(cluster) for cluster in filled["clusters"]] == expected


def test_other_names_are_given_as_the_fixed_ones(tissue):
    other = AnnData(tissue.X * 0, obs=tissue.obs.rename(columns={"section": "slide"}), var=tissue.var)
    other.layers["raw"] = tissue.X
    other.obsm["place"] = tissue.obsm["spatial"]
    for part in ("connectivities", "distances"):
        other.obsp[f"knn_{part}"] = tissue.obsp[f"spatial_{part}"]
    found = prepare(other, layer="raw", library_key="slide", neighbors_key="knn", spatial_key="place")
    assert digest(found) == digest(prepare(tissue))
    assert list(found.obs) == ["section", "technology"]


def test_backed_data_are_refused_with_the_next_call(tissue, tmp_path):
    tissue.write_h5ad(tmp_path / "tissue.h5ad")
    with pytest.raises(ValueError, match="to_memory"):
        prepare(read_h5ad(tmp_path / "tissue.h5ad", backed="r"))


def test_one_section_and_technology_where_the_data_name_none(tissue):
    del tissue.obs["section"], tissue.obs["technology"]
    found = prepare(tissue)
    assert found.obs["section"].nunique() == 1
    assert found.obs["technology"].nunique() == 1


def test_the_digest_sees_the_graph_and_the_names(tissue):
    base = digest(prepare(tissue))
    assert digest(prepare(tissue.copy())) == base
    renamed = tissue.copy()
    renamed.var_names = [f"{name}x" for name in renamed.var_names]
    assert digest(prepare(renamed)) != base
    cut = tissue.copy()
    graph = cut.obsp["spatial_connectivities"].tolil()
    graph[0] = 0
    cut.obsp["spatial_connectivities"] = graph.tocsr()
    assert digest(prepare(cut)) != base
    assert digest(prepare(tissue[::-1].copy())) != base


def test_what_the_data_lack_comes_with_the_next_call(tissue):
    with pytest.raises(KeyError, match=r"obsm\['place'\] does not exist.*spatial_key="):
        prepare(tissue, spatial_key="place")
    partly = tissue.copy()
    partly.obs["section"] = partly.obs["section"].cat.remove_categories(["s2"])
    with pytest.raises(ValueError, match=r"40 cells have no 'section'; the first is 'c40'.*notna\(\)"):
        prepare(partly)


@pytest.mark.parametrize("value", [np.nan, "left"])
def test_coordinates_that_are_no_numbers_name_the_cell(tissue, value):
    tissue.obsm["spatial"] = tissue.obsm["spatial"].astype(object)
    tissue.obsm["spatial"][3, 1] = value
    with pytest.raises(ValueError, match=r"adata.obsm\['spatial'\]: Cell 'c3' has the coordinates"):
        prepare(tissue)
