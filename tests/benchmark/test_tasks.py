"""Which tasks data allow, and that no label is in any of them."""

from __future__ import annotations

import numpy as np
import pytest

from scjepa.benchmark.suites.tissue import make_tasks, read_units

REGION = {"label": "region"}


def tasks_of(data, kinds="auto", columns=REGION):
    return {(task.kind, task.data): task for task in make_tasks(read_units(data, **columns), kinds)}


def test_auto_takes_each_technology_by_itself_and_all_together(tissue, other):
    found = tasks_of({"a": tissue, "b": other})
    assert list(found) == [("within", "b"), ("sections", "a"), ("technologies", "a × b")]
    assert [len(task.labels) for task in found.values()] == [40, 80, 120]
    assert [task.shared is not None for task in found.values()] == [False, False, True]


def test_within_takes_sections_one_by_one(tissue):
    found = tasks_of({"a": tissue}, "within")
    assert list(found) == [("within", "a: s1"), ("within", "a: s2")]
    for task in found.values():
        assert len(set(task.sections)) == 1
        assert task.adata.obsp["spatial_connectivities"].nnz > 0


def test_labels_stay_with_their_cells_in_every_task(tissue, other):
    left = {"left": True, "right": False}
    for task in tasks_of({"a": tissue, "b": other}, ["within", "sections", "technologies"]).values():
        assert [left[label] for label in task.labels] == list(task.adata.obsm["spatial"][:, 0] < 50)


def test_no_task_holds_a_label_or_anything_it_was_not_asked_for(tissue, other):
    tissue.obs["truth"] = tissue.obs["region"].astype(str)
    tissue.obsm["X_truth"] = np.ones((80, 1))
    tissue.uns["region_colors"] = ["red", "blue"]
    for task in tasks_of({"a": tissue, "b": other}, ["within", "sections", "technologies"]).values():
        for adata in (task.adata, task.narrow):
            assert list(adata.obs) == ["section", "technology"]
            assert list(adata.obsm) == ["spatial"]
            assert list(adata.uns) == ["spatial_neighbors"]
            assert set(adata.layers) <= {None}  # which is X, from anndata 0.13 on
            assert "left" not in repr(adata.obs.to_numpy().tolist())


def test_across_technologies_full_panels_and_shared_genes_are_told_apart(tissue, other):
    task = tasks_of({"a": tissue, "b": other})["technologies", "a × b"]
    assert task.adata.n_vars == 20
    assert set(task.shared) == set(tissue.var_names) & set(other.var_names)
    assert list(task.narrow.var_names) == list(task.shared)
    panel = task.adata.varm["panel"]
    assert panel.sum().to_dict() == {"T": 15, "U": 10}
    assert set(panel.index[panel.all(axis=1)]) == set(task.shared)
    joint = task.adata.obsp["spatial_connectivities"].tocoo()
    assert (task.technologies[joint.row] == task.technologies[joint.col]).all()


def test_one_technology_with_two_panels_counts_as_two(tissue, other):
    other.obs["technology"] = "T"
    task = tasks_of({"a": tissue, "b": other})["technologies", "a × b"]
    assert set(task.technologies) == {"T (a)", "T (b)"}
    assert set(task.adata.varm["panel"].columns) == {"T (a)", "T (b)"}


def test_two_files_of_one_technology_and_panel_are_sections_of_it(tissue):
    cells = (tissue.obs["section"] == "s1").to_numpy()
    found = tasks_of({"m1": tissue[cells].copy(), "m2": tissue[~cells].copy()})
    assert list(found) == [("sections", "m1 + m2")]
    assert len(set(found["sections", "m1 + m2"].sections)) == 2


def test_one_file_of_two_technologies_is_split(tissue):
    tissue.obs["technology"] = np.where(tissue.obs["section"] == "s1", "T", "U")
    cells = np.flatnonzero(tissue.obs["section"] == "s1")
    tissue.X[cells[:, None], np.arange(3)] = 0  # T has no count of the first three genes
    tissue.X.eliminate_zeros()
    task = tasks_of({"a": tissue})["technologies", "a T × a U"]
    assert task.shared == tuple(sorted(tissue.var_names[3:]))


def test_a_graph_is_built_where_there_is_none(tissue):
    adata = tissue.copy()
    del adata.obsp["spatial_connectivities"], adata.obsp["spatial_distances"], adata.uns["spatial_neighbors"]
    task = tasks_of({"a": adata})["sections", "a"]
    assert (task.adata.obsp["spatial_connectivities"].getnnz(axis=1) >= 10).all()
    assert "spatial_connectivities" not in adata.obsp


def test_cells_without_a_label_take_part_and_are_not_labelled(tissue):
    tissue.obs["region"] = tissue.obs["region"].astype(object)
    tissue.obs.iloc[:5, tissue.obs.columns.get_loc("region")] = np.nan
    tissue.obs.iloc[5:9, tissue.obs.columns.get_loc("region")] = "unlabelled"
    task = tasks_of({"a": tissue})["sections", "a"]
    assert len(task.labels) == 80
    assert task.labelled.sum() == 71
    assert task.n_labels == 2


@pytest.mark.parametrize(
    ("kinds", "message"),
    [
        ("sections", "two sections or more; b has 1"),
        ("technologies", "two technologies or more"),
        ("all", "Unknown task"),
    ],
)
def test_a_task_that_the_data_cannot_give_is_an_error(other, kinds, message):
    with pytest.raises(ValueError, match=message):
        tasks_of({"b": other}, kinds)


def test_labels_that_look_like_missing_ones_are_warned_of(tissue):
    tissue.obs["region"] = tissue.obs["region"].astype(object)
    tissue.obs.iloc[:5, tissue.obs.columns.get_loc("region")] = "nan"
    with pytest.warns(
        UserWarning, match=r"5 cells have the label 'nan'.*where\(adata.obs\['region'\] != 'nan'\)"
    ) as caught:
        task = tasks_of({"a": tissue})["sections", "a"]
    assert task.n_labels == 3
    assert {one.filename for one in caught if one.category is UserWarning} == {__file__}


@pytest.mark.parametrize("value", [np.nan, np.inf, -1.0])
def test_what_is_no_count_is_an_error_before_anything_runs(tissue, value):
    tissue.X = tissue.X.astype(np.float64)
    tissue.X[3, 2] = value
    with pytest.raises(ValueError, match=r"'a': Cell 'c3' has the value .* in gene 'Gene2'; counts are finite"):
        tasks_of({"a": tissue})


def test_no_shared_gene_is_an_error_with_examples_of_both(tissue, other):
    other.var_names = [f"ENS{i}" for i in range(other.n_vars)]
    with pytest.raises(ValueError, match=r"No gene was measured by all technologies.*Gene0.*ENS0"):
        tasks_of({"a": tissue, "b": other})


def test_one_label_is_an_error(tissue):
    tissue.obs["region"] = "cortex"
    with pytest.raises(ValueError, match=r"one label .'cortex'."):
        tasks_of({"a": tissue})


def test_labels_that_are_all_missing_are_an_error(tissue):
    tissue.obs["region"] = np.nan
    with pytest.raises(ValueError, match=r"missing .* for every cell"):
        tasks_of({"a": tissue})


def test_a_label_that_methods_would_be_given_is_an_error():
    with pytest.raises(ValueError, match="Labels must stay out of training"):
        read_units({}, label="technology")
    with pytest.raises(ValueError, match="Labels must stay out of training"):
        read_units({}, label="layer", section="layer")


@pytest.mark.parametrize(
    ("columns", "error", "message"),
    [
        ({"label": "layers"}, KeyError, "obs.'layers'.*region"),
        ({"technology": "tech"}, KeyError, "'a'.*'tech'"),
        ({"layer": "counts"}, KeyError, r"layers\['counts'\] does not exist"),
    ],
)
def test_columns_that_are_not_there_are_named(tissue, columns, error, message):
    with pytest.raises(error, match=message):
        read_units({"a": tissue}, **columns)


def test_a_method_may_not_ask_for_the_label(tissue):
    with pytest.raises(ValueError, match="no method may be given it"):
        read_units({"a": tissue}, **REGION, keep_obs=["region"])


def test_data_are_read_from_files_and_named_by_them(tissue, tmp_path):
    tissue.write_h5ad(tmp_path / "one.h5ad")
    (unit,) = read_units(tmp_path / "one.h5ad", **REGION)
    assert unit.name == "one"
    with pytest.raises(FileNotFoundError, match="There is no file"):
        read_units(tmp_path / "two.h5ad", **REGION)
    with pytest.raises(TypeError, match="for 'a', found int"):
        read_units({"a": 3}, **REGION)
    with pytest.raises(ValueError, match="There are no data"):
        read_units([], **REGION)


def test_a_section_of_few_cells_says_what_to_do(tissue):
    few = tissue[:8].copy()
    del few.obsp["spatial_connectivities"], few.obsp["spatial_distances"]
    with pytest.raises(ValueError, match="'s1' has 8 cells, too few for 10 neighbors"):
        read_units({"a": few}, **REGION)
