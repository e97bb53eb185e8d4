"""Data that cannot be compared, or not as they are, are told of before anything runs, with the next call."""

from __future__ import annotations

import re
import warnings

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

import scjepa
from scjepa._core.squidpy import spatial_graph
from scjepa.benchmark import run
from scjepa.benchmark.inputs import digest, prepare
from scjepa.benchmark.suites.tissue import make_tasks, read_units

PARTS = ("spatial_connectivities", "spatial_distances")


def with_graph(adata: AnnData, **options) -> AnnData:
    """Return the cells with squidpy's graph, within sections unless ``library_key`` says else."""
    spatial_graph(adata, **{"library_key": "section", **options})
    return adata


def without(adata: AnnData, *parts: str) -> AnnData:
    """Return the cells without parts of the graph."""
    copy = adata.copy()
    for part in parts:
        del copy.obsp[part]
    return copy


def units_of(data):
    return read_units(data, "region")


def told(data) -> list[str]:
    """Return what is warned of while data are read."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        units_of(data)
    return [str(warning.message) for warning in caught if warning.category is UserWarning]


# -- the graph --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kept", "computed"), [PARTS, PARTS[::-1]])
def test_half_a_graph_is_made_whole_and_not_replaced(tissue, kept, computed):
    whole = with_graph(tissue, n_neighs=3)
    (unit,) = units_of({"a": without(whole, computed)})
    assert (unit.adata.obsp[kept] != whole.obsp[kept]).nnz == 0
    np.testing.assert_allclose(unit.adata.obsp[computed].toarray(), whole.obsp[computed].toarray())


def test_an_edge_of_two_cells_in_one_place_has_the_distance_0(tissue):
    tissue.obsm["spatial"][1] = tissue.obsm["spatial"][0]
    half = without(with_graph(tissue, n_neighs=3), "spatial_distances")
    (unit,) = units_of({"a": half})
    edges = unit.adata.obsp["spatial_distances"]
    assert edges.nnz == half.obsp["spatial_connectivities"].nnz
    assert 1 in edges[0].indices
    assert edges[0, 1] == 0


def test_connectivities_without_distances_are_what_methods_see(tissue, quick, by_place):
    seen = []

    def mine(adata):
        seen.append(np.diff(adata.obsp["spatial_connectivities"].indptr))
        return by_place(adata)

    half = without(with_graph(tissue, n_neighs=3), "spatial_distances")
    run(half, label="region", methods={"mine": mine}, tasks="within", scoring=quick, seeds=1)
    assert [set(degrees) for degrees in seen] == [{3}, {3}]
    assert list(half.obsp) == ["spatial_connectivities"]


def test_two_hop_connectivities_alone_are_no_graph(tissue):
    half = without(with_graph(tissue, n_neighs=3, transform="cosine"), "spatial_distances")
    with pytest.raises(ValueError, match=r"'a': There is no spatial graph. Build it: sq"):
        units_of({"a": half})


def test_a_graph_that_only_one_of_two_files_has_is_not_left_out_unsaid(tissue):
    cells = (tissue.obs["section"] == "s1").to_numpy()
    data = {"m1": with_graph(tissue[cells].copy(), n_neighs=12), "m2": without(tissue[~cells], *PARTS)}
    (message,) = told(data)
    assert re.search("'m1' has a spatial graph and 'm2' has none.*10 nearest neighbors.*not the graph of 'm1'", message)
    assert "compute the same for 'm2': sq.gr.spatial_neighbors" in message
    (unit,) = units_of(data)
    assert set(unit.adata.obsp["spatial_distances"].getnnz(axis=1)) == {10}
    assert told({"m1": without(data["m1"], *PARTS), "m2": data["m2"]}) == []


def test_edges_across_sections_are_refused_as_st_jepa_refuses_them(tissue, tmp_path, by_place):
    crossing, ran = with_graph(tissue, library_key=None, n_neighs=5), []
    scjepa.STJEPA.setup_anndata(crossing, library_key="section")
    with pytest.raises(ValueError, match="join different sections") as theirs:
        scjepa.STJEPA(crossing, preset="demo").get_latent_representation()

    def mine(adata):
        ran.append(adata.n_obs)
        return by_place(adata)

    with pytest.raises(
        ValueError, match=r"join different sections.*spatial_neighbors.*\(adata, .*library_key=\.\.\."
    ) as ours:
        run({"a": crossing}, label="region", methods={"mine": mine}, out=tmp_path / "out")
    assert str(ours.value) == f"'a': {theirs.value}"
    assert not ran
    assert not (tmp_path / "out").exists()


def test_a_graph_without_edges_is_refused(tissue):
    with pytest.raises(ValueError, match=r"'a': The spatial graph of 80 cells has no edge.*larger radius"):
        units_of({"a": with_graph(tissue, kind="radius", radius=1e-6)})


def test_a_stale_graph_is_warned_of_once_for_each_data_set(tissue, other):
    tissue, other = (with_graph(adata, n_neighs=10) for adata in (tissue, other))
    assert told({"a": tissue, "b": other}) == []
    moved = tissue.copy()
    moved.obsm["spatial"] = moved.obsm["spatial"][::-1]
    (stale,) = told({"a": moved, "b": other})
    assert re.match(r"'a': .*looks stale.*Build it again: sq\.gr\.spatial_neighbors", stale)
    (short,) = told({"a": tissue[np.arange(80) % 4 > 0].copy(), "b": other})
    assert re.match(r"'a': .*of the cells .* have fewer than 10 neighbors.*cells were removed", short)


def test_warnings_of_the_graph_point_at_the_users_line(tissue):
    with pytest.warns(UserWarning, match="'a': .*fewer than 10 neighbors") as caught:
        units_of({"a": tissue})
    assert [one.filename for one in caught if one.category is UserWarning] == [__file__]


# -- names and places -------------------------------------------------------------------------------------------------


def test_genes_that_are_there_twice_are_named(tissue, other):
    tissue.var_names = ["Gene1", *tissue.var_names[1:]]
    with pytest.raises(ValueError, match=r"of 'a' occur more than once: 'Gene1'.*adata.var_names_make_unique\(\)"):
        units_of({"a": tissue, "b": other})


@pytest.mark.parametrize("graph", [True, False])
@pytest.mark.parametrize("value", [np.nan, np.inf, "left", None])
def test_coordinates_that_are_no_numbers_name_data_set_and_cell(tissue, graph, value):
    tissue.obsm["spatial"] = tissue.obsm["spatial"].astype(float if isinstance(value, float) else object)
    tissue.obsm["spatial"][3, 1] = value
    message = r"'a': adata.obsm\['spatial'\]: Cell 'c3' has the coordinates .* 1 cells in all.*Drop"
    with pytest.raises(ValueError, match=message):
        units_of({"a": tissue if graph else without(tissue, *PARTS)})


def test_coordinates_of_one_column_are_refused(tissue):
    tissue.obsm["spatial"] = tissue.obsm["spatial"][:, :1]
    with pytest.raises(ValueError, match=r"'a': .*must have the shape \(n_cells, 2\)"):
        units_of({"a": tissue})


@pytest.mark.parametrize("kind", [object, str])
def test_numbers_that_are_kept_as_texts_or_objects_are_numbers(tissue, kind):
    written = tissue.copy()
    written.obsm["spatial"] = tissue.obsm["spatial"].astype(kind)
    assert digest(prepare(units_of({"a": written})[0].adata)) == digest(prepare(units_of({"a": tissue})[0].adata))


def test_what_is_missing_comes_with_the_next_call(tissue):
    partly = tissue.copy()
    partly.obs["section"] = partly.obs["section"].cat.remove_categories(["s2"])
    with pytest.raises(ValueError, match=r"'a': 40 cells have no 'section'.*adata\[adata.obs\['section'\].notna\(\)\]"):
        units_of({"a": partly})
    del tissue.obsm["spatial"]
    with pytest.raises(
        KeyError, match=r"'a': adata.obsm\['spatial'\] does not.*adata.obsm\['spatial'\] = adata.obs\[\["
    ):
        units_of({"a": tissue})


@pytest.mark.parametrize(
    ("names", "hint"),
    [
        (lambda names: names.str.upper(), r"differ in case.*str.upper\(\) makes those of 'a' match"),
        (
            lambda names: pd.Index([f"ENSMUSG{i:011d}" for i in range(len(names))]),
            r"Ensembl ids in 'b', gene symbols in 'a'.*var_names of 'a'.*gene_ids",
        ),
        (lambda names: names + "x", "species and panel are those of 'b'"),
    ],
)
def test_no_shared_gene_comes_with_the_likely_cause(tissue, other, names, hint):
    other.var_names = names(other.var_names)
    with pytest.raises(ValueError, match=rf"No gene was measured by all.*Gene0.*{hint}.*leave the task"):
        make_tasks(units_of({"a": tissue, "b": other}))


def test_no_gene_of_three_panels_is_told_apart_from_two_with_none(tissue):
    genes = {"a": [0, 1], "b": [1, 2], "c": [0, 2]}
    data = {name: tissue[:, [f"Gene{i}" for i in chosen]].copy() for name, chosen in genes.items()}
    with pytest.raises(ValueError, match=r"Each two have some in common.*leave a technology out"):
        make_tasks(units_of(data), "technologies")
