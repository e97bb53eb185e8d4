"""Each warning of a model points at the user's line, not into the package or what wraps it."""

from __future__ import annotations

import numpy as np
import pytest

import scjepa


def _renamed(adata, with_graph):
    query = adata[:, :15].copy()
    query.var_names = [*query.var_names[:-1], "NewGene"]
    return with_graph(query)


def _fewer_neighbors(model, adata, with_graph):
    model.get_latent_representation(with_graph(adata.copy(), k=2))


def _new_genes(model, adata, with_graph):
    model.get_latent_representation(_renamed(adata, with_graph))


def _new_genes_loaded(model, adata, with_graph, folder):
    model.save(folder / "model")
    scjepa.STJEPA.load(folder / "model", _renamed(adata, with_graph))


def _no_section(model, adata, with_graph):
    query = adata.copy()
    query.uns = {key: value for key, value in query.uns.items() if not key.startswith("_scvi")}  # not set up itself
    del query.obs["section"]
    model.get_latent_representation(query)


def _no_counts(model, adata, with_graph):
    query = adata.copy()
    query.X[3] = 0
    model.get_latent_representation(query, scale="cell")


def _logged(model, adata, with_graph):
    query = adata.copy()
    query.X = query.X.astype(np.float32).log1p()
    model.get_latent_representation(query)


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (_fewer_neighbors, "fewer than"),
        (_new_genes, "does not know"),
        (_no_section, "taken as one section"),
        (_no_counts, "get a zero embedding"),
        (_logged, "not whole numbers"),
    ],
)
def test_a_warning_names_the_line_that_asked_for_embeddings(trained, with_graph, act, message):
    with pytest.warns(UserWarning, match=message) as caught:
        act(*trained, with_graph)
    assert {one.filename for one in caught if one.category is UserWarning} == {__file__}


def test_cells_without_tokens_are_told_from_cells_without_counts(trained):
    model, adata = trained
    query = adata[:, :10].copy()
    query.var_names = [f"New{i}" if i else name for i, name in enumerate(query.var_names)]
    query.X[3] = 0
    empty = (query.X[:, [0]].toarray() == 0).all(axis=1)
    without = (query.X.toarray() == 0).all(axis=1)
    with pytest.warns(UserWarning, match="no token at the cell scale") as caught:
        model.get_latent_representation(query, scale="cell")
    (told,) = [str(one.message) for one in caught if "no token" in str(one.message)]
    assert told.startswith(f"{empty.sum()} cells have no token at the cell scale and get a zero embedding. ")
    assert f"{without.sum()} of them, first 'cell3', have no counts at all: sc.pp.filter_cells" in told
    assert f"{empty.sum() - without.sum()} of them, first " in told
    assert "have counts, but not of a gene the model knows: model.coverage(adata)" in told
    with pytest.warns(UserWarning, match="genes=None takes all"):
        model.get_latent_representation(adata, scale="cell", genes=[query.var_names[0]])


def test_a_warning_names_the_line_that_loads(trained, with_graph, tmp_path):
    with pytest.warns(UserWarning, match="does not know") as caught:
        _new_genes_loaded(*trained, with_graph, tmp_path)
    assert {one.filename for one in caught if one.category is UserWarning} == {__file__}


def test_a_warning_names_the_line_that_uses_an_untrained_model(adata, make_model):
    model = make_model(adata)
    with pytest.warns(UserWarning, match="not trained") as caught:
        model.get_gene_representation()
    assert {one.filename for one in caught if one.category is UserWarning} == {__file__}


def test_a_warning_names_the_line_that_trains(make_tissue, make_model, with_graph):
    model = make_model(with_graph(make_tissue(), k=2))
    with pytest.warns(UserWarning, match="fewer than") as caught:
        model.train(max_steps=1, accelerator="cpu", progress_bar=False)
    assert {one.filename for one in caught if one.category is UserWarning} == {__file__}


def test_technologies_without_a_gene_in_common_are_warned_of(adata, make_model):
    first = (adata.obs["technology"] == "A").to_numpy()
    counts = adata.X.toarray()
    counts[first, 12:], counts[~first, :12] = 0, 0
    adata.X = counts
    with pytest.warns(UserWarning, match=r"technology 'A' \('Gene.* has no gene in common with any other, such as 'B'"):
        make_model(adata)
