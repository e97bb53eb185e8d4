"""Components in common: technologies that share few genes meet, and what cannot meet is refused."""

from __future__ import annotations

import anndata as ad
import dask.array as da
import numpy as np
import pytest
from sklearn.metrics import normalized_mutual_info_score
from sklearn.neighbors import KNeighborsClassifier

import scjepa
from scjepa._core.squidpy import spatial_graph
from scjepa.tl import SharedComponents, aggregate, shared_components, shared_components_of

FEW = {"n_iterations": 2, "n_comps": 8}


def _tissue(technologies, overlap):
    adata = scjepa.datasets.simulated_tissue(
        n_cells=700 * len(technologies),
        n_sections=len(technologies),
        n_niches=4,
        n_genes=120,
        technologies=technologies,
        panel_overlap=overlap,
    )
    spatial_graph(adata, n_neighs=10, library_key="section")
    return adata


@pytest.fixture(scope="module")
def tissue():
    adata = _tissue(("A", "B"), 0.15)
    shared_components(adata, **FEW)
    return adata


@pytest.fixture(scope="module")
def parts(tissue):
    """Counts of each technology's own genes, and its graph."""
    found = {}
    for name in ("A", "B"):
        part = tissue[tissue.obs["technology"] == name]
        found[name] = part[:, np.asarray(part.X.sum(axis=0)).ravel() > 0].copy()
    return found


def _graphs(parts):
    return {name: part.obsp["spatial_connectivities"] for name, part in parts.items()}


def _carried(values, adata):
    """Return the share of cells whose region the nearest cells of the other technology tell, the worse direction."""
    first = (adata.obs["technology"] == "A").to_numpy()
    labels = adata.obs["region"].astype(str).to_numpy()
    found = []
    for one in (first, ~first):
        model = KNeighborsClassifier(15).fit(values[one], labels[one])
        found.append(float((model.predict(values[~one]) == labels[~one]).mean()))
    return min(found)


# -- what they are for -----------------------------------------------------------------------------------------------


def test_regions_are_carried_between_technologies_that_share_few_genes(tissue):
    graph = tissue.obsp["spatial_connectivities"]
    together = aggregate(tissue.obsm["X_shared"], connectivities=graph, n_hops=2)
    apart = tissue.copy()
    scjepa.tl.predictive_components(apart, n_comps=8)
    without = aggregate(apart.obsm["X_predictive"], connectivities=graph, n_hops=2)
    assert _carried(together, tissue) > max(0.8, _carried(without, tissue))


def test_joint_niches_agree_with_the_planted_ones(tissue):
    adata = tissue.copy()
    scjepa.tl.niche_readout(adata, use_rep="X_shared", align="covariance")
    scjepa.tl.niches(adata, n_niches=4)
    assert normalized_mutual_info_score(adata.obs["region"], adata.obs["niche"]) > 0.6


def test_technologies_may_be_joined_by_a_third():
    """A and C have no gene in common; both have some with B."""
    panels = {"A": slice(0, 50), "B": slice(30, 90), "C": slice(70, 120)}
    whole = _tissue({name: {} for name in panels}, 1.0)
    whole = whole[:, np.random.default_rng(0).permutation(whole.n_vars)]
    data = {name: whole[whole.obs["technology"] == name][:, genes].copy() for name, genes in panels.items()}
    shared = SharedComponents(8, n_iterations=2)
    found = shared.fit_transform(data, _graphs(data))
    rings = {name: aggregate(found[name], connectivities=graph, n_hops=2) for name, graph in _graphs(data).items()}
    labels = {name: part.obs["region"].astype(str).to_numpy() for name, part in data.items()}
    model = KNeighborsClassifier(15).fit(rings["A"], labels["A"])
    assert shared.n_shared_.tolist() == [20, 0, 20]
    assert (model.predict(rings["C"]) == labels["C"]).mean() > 0.7


# -- what changes nothing --------------------------------------------------------------------------------------------


def test_the_order_of_cells_and_genes_changes_nothing(parts):
    found = SharedComponents(8, n_iterations=2).fit_transform(parts, _graphs(parts))
    rng = np.random.default_rng(1)
    orders = {name: rng.permutation(part.n_obs) for name, part in parts.items()}
    dealt = {name: part[orders[name], rng.permutation(part.n_vars)].copy() for name, part in reversed(parts.items())}
    again = SharedComponents(8, n_iterations=2).fit_transform(dealt, _graphs(dealt))
    for name, values in found.items():
        one, other = values[orders[name]], again[name]
        np.testing.assert_allclose(one @ one[:50].T, other @ other[:50].T, atol=2e-2 * np.abs(one @ one[:50].T).max())


def test_the_fit_is_kept_and_applied_to_other_cells(tissue, parts, tmp_path):
    tissue.copy().write_h5ad(tmp_path / "kept.h5ad")
    shared = shared_components_of(ad.read_h5ad(tmp_path / "kept.h5ad"))
    found = shared.transform({"B": parts["B"][:100]}, {"B": parts["B"].obs["section"][:100]})
    expected = tissue[tissue.obs["technology"] == "B"].obsm["X_shared"][:100]
    assert found["B"].shape == (100, 8)
    assert np.corrcoef(found["B"][:, 0], expected[:, 0])[0, 1] > 0.99


def test_a_table_of_panels_is_followed(parts):
    joined = scjepa.concat(parts, technology_key="technology")
    spatial_graph(joined, n_neighs=10, library_key="section")
    with_table = joined.copy()
    shared_components(with_table, **FEW)
    del joined.varm["panel"]
    shared_components(joined, **FEW)
    np.testing.assert_array_equal(with_table.obsm["X_shared"], joined.obsm["X_shared"])


@pytest.mark.parametrize("holder", ["dask", "backed", "layer"])
def test_it_does_not_matter_what_holds_the_counts(tissue, tmp_path, holder):
    other, layer = tissue.copy(), None
    del other.obsm["X_shared"], other.uns["scjepa"]
    if holder == "dask":
        other.X = da.from_array(other.X.toarray(), chunks=(300, 120))
    elif holder == "backed":
        other.write_h5ad(tmp_path / "backed.h5ad")
        other = ad.read_h5ad(tmp_path / "backed.h5ad", backed="r")
    else:
        other.layers["counts"], other.X, layer = other.X, None, "counts"
    shared_components(other, layer=layer, **FEW)
    np.testing.assert_array_equal(other.obsm["X_shared"], tissue.obsm["X_shared"])


# -- what is refused -------------------------------------------------------------------------------------------------


def test_one_technology_is_refused(tissue):
    one = tissue[tissue.obs["technology"] == "A"].copy()
    with pytest.raises(ValueError, match="two technologies"):
        shared_components(one, key_added="X_other")


def test_panels_without_a_gene_in_common_are_refused(parts):
    other = parts["B"].copy()
    other.var_names = "X" + other.var_names
    with pytest.raises(ValueError, match="genes or more in common"):
        SharedComponents(8).fit({"A": parts["A"], "B": other}, _graphs(parts))


def test_genes_without_names_are_refused(parts):
    data = {name: part.to_df() if name == "A" else part.X for name, part in parts.items()}
    with pytest.raises(TypeError, match="names"):
        SharedComponents(8).fit(data, _graphs(parts))


def test_an_unknown_technology_is_refused(tissue, parts):
    with pytest.raises(KeyError, match="took no part"):
        shared_components_of(tissue).transform({"C": parts["A"]})


@pytest.mark.parametrize(("option", "error"), [({"n_anchors": 0}, ValueError), ({"n_iterations": 1.5}, TypeError)])
def test_options_out_of_range_are_refused(tissue, option, error):
    with pytest.raises(error, match=next(iter(option))):
        shared_components(tissue.copy(), **option)


def test_an_unknown_column_is_named(tissue):
    with pytest.raises(KeyError, match="chemistry"):
        shared_components(tissue.copy(), "chemistry")


def test_without_a_fit_the_call_is_named(parts):
    with pytest.raises(KeyError, match="shared_components"):
        shared_components_of(parts["A"], "X_other")


def test_what_another_function_noted_is_refused(tissue):
    with pytest.raises(KeyError, match=r"SharedComponents.*PredictiveComponents"):
        scjepa.tl.predictive_components_of(tissue, "X_shared")
