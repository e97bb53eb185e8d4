"""What becomes tokens, from AnnData to a saved model: panels as ever, whole transcriptomes by what tells of places."""

from __future__ import annotations

import dataclasses
import json
import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import scjepa
from scjepa._core.squidpy import spatial_graph
from scjepa.stjepa.config import PRESETS, resolve
from scjepa.tokens.choice import TokenSpread

SMALL = {
    "encoder": {"width": 32, "n_layers": 1, "n_heads": 2},
    "training": {"max_steps": 4, "batch_size": 16},
}
HOUSE = [*(f"MT-ND{i}" for i in range(1, 11)), *(f"RPL{i}" for i in range(1, 31))]


def transcriptome(n: int = 200, n_genes: int = 2200, seed: int = 0, prefix: str = "Gene") -> ad.AnnData:
    """Return spots in two domains; mitochondrial and ribosomal genes have the top counts of all of them."""
    rng = np.random.default_rng(seed)
    place = np.stack(np.divmod(np.arange(n), 20), axis=1).astype(float)
    names = [*HOUSE, *(f"{prefix}{i:04d}" for i in range(n_genes - len(HOUSE)))]
    rate = np.full((n, n_genes), 0.3)
    rate[:, : len(HOUSE)] = 30.0
    left = place[:, 1] < 10
    rate[left, len(HOUSE) : len(HOUSE) + 40] = 4.0
    rate[~left, len(HOUSE) + 40 : len(HOUSE) + 80] = 4.0
    obs = pd.DataFrame({"region": np.where(left, "left", "right")}, index=[f"cell{i}" for i in range(n)])
    adata = ad.AnnData(sparse.csr_matrix(rng.poisson(rate).astype(np.int32)), obs=obs, var=pd.DataFrame(index=names))
    adata.obsm["spatial"] = place
    return with_graph(adata)


def with_graph(adata: ad.AnnData) -> ad.AnnData:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        spatial_graph(adata, n_neighs=10)
    return adata


def model_of(adata: ad.AnnData, preset: str = "demo", **changes) -> scjepa.STJEPA:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Ranked by count")
        scjepa.STJEPA.setup_anndata(adata)
    return scjepa.STJEPA(adata, preset, **{**SMALL, **changes})


def genes_of(model: scjepa.STJEPA) -> set[str]:
    """Return the names of all genes among the tokens of the model's cells."""
    return {model.vocabulary.names[i] for i in np.unique(model._own_tables().tokens.genes)}


@pytest.fixture(scope="module")
def whole() -> ad.AnnData:
    return transcriptome()


def test_a_transcriptome_is_ranked_by_what_tells_of_places(whole, caplog):
    with caplog.at_level("INFO", logger="scjepa"):
        model = model_of(whole.copy())
    tokens = model.config.tokens
    assert (tokens.ranks, tokens.left_out) == ("spatial_ratio", ("mitochondrial", "ribosomal"))
    words = (
        "ranked by count over the gene's mean × what the gene tells of places; left out: 10 mitochondrial, 30 ribosomal"
    )
    assert words in caplog.text
    assert words in str(model)
    assert not genes_of(model).intersection(HOUSE)
    table = model._own_tables().tokens
    markers = {f"Gene{i:04d}" for i in range(80)}
    shown = np.isin(np.array(model.vocabulary.names)[table.genes], list(markers))
    assert shown.mean() > 0.7
    assert not model._token_spread().same


def test_without_names_the_ranks_do_it_alone(whole):
    adata = whole.copy()
    adata.var_names = [f"ENSG{i:011d}" for i in range(adata.n_vars)]
    model = model_of(adata)
    assert model.config.tokens.left_out == ()
    shown = np.isin(model._own_tables().tokens.genes, np.arange(len(HOUSE), len(HOUSE) + 80))
    assert shown.mean() > 0.7


@pytest.mark.parametrize("preset", ["demo", "base", "technologies"])
def test_a_panel_stays_as_it_was(adata, preset):
    model = model_of(adata, preset)
    plain = model_of(adata.copy(), preset, tokens={"ranks": "counts", "left_out": ()})
    assert model.config == plain.config
    assert list(model.normalizations.to_arrays()) == ([] if preset != "technologies" else ["nonzero_mean"])


def test_the_choice_is_saved_and_taken_to_other_data(whole, tmp_path):
    model = model_of(whole.copy())
    model.save(tmp_path / "model")
    loaded = scjepa.STJEPA.load(tmp_path / "model", whole.copy())
    assert loaded.config == model.config
    np.testing.assert_array_equal(
        loaded.normalizations.to_arrays()["spatial_ratio"], model.normalizations.to_arrays()["spatial_ratio"]
    )
    few = with_graph(whole[:60, ::-1].copy())
    there = model.get_latent_representation(whole.copy(), scale="cell")
    np.testing.assert_allclose(model.get_latent_representation(few, scale="cell").shape, (60, there.shape[1]))
    query = scjepa.STJEPA.load_query_data(with_graph(transcriptome(seed=1, n_genes=2300)), model)
    assert query.config == model.config
    known = len(model.vocabulary)
    kept, own = (m.normalizations.to_arrays()["spatial_ratio"] for m in (model, query))
    np.testing.assert_array_equal(own[:, :known, 1], np.broadcast_to(kept[0, :, 1], own[:, :known, 1].shape))


def test_order_of_cells_and_genes_does_not_matter(whole):
    rng = np.random.default_rng(0)
    cells, genes = rng.permutation(whole.n_obs), rng.permutation(whole.n_vars)
    moved = ad.AnnData(whole.X[cells][:, genes], obs=whole.obs.iloc[cells], var=whole.var.iloc[genes])
    moved.obsm["spatial"] = whole.obsm["spatial"][cells]
    moved.obsp["spatial_connectivities"] = whole.obsp["spatial_connectivities"][cells][:, cells]
    moved.obsp["spatial_distances"] = whole.obsp["spatial_distances"][cells][:, cells]
    plain = model_of(whole.copy())
    there, here = (model._own_tables().tokens for model in (plain, model_of(moved)))
    np.testing.assert_array_equal(here.subset(np.argsort(cells)).genes, there.genes)


def test_backed_counts_give_the_same_tokens(whole, tmp_path):
    whole.copy().write_h5ad(tmp_path / "whole.h5ad")
    backed = ad.read_h5ad(tmp_path / "whole.h5ad", backed="r")
    there, here = model_of(whole.copy()), model_of(backed)
    assert here.config == there.config
    np.testing.assert_array_equal(here._own_tables().tokens.genes, there._own_tables().tokens.genes)


def test_a_cell_of_nothing_but_mitochondria_is_zero_and_named(whole):
    adata = whole.copy()
    counts = adata.X.toarray()
    counts[5, 10:] = 0
    adata.X = sparse.csr_matrix(counts)
    model = model_of(adata)
    with pytest.warns(UserWarning, match="cell5"):
        embedding = model.get_latent_representation(scale="cell")
    assert not embedding[5].any()
    assert np.isfinite(embedding).all()


def test_setting_up_warns_of_top_genes_that_all_cells_share(whole, adata):
    with pytest.warns(UserWarning, match="top 16 genes of all cells are nearly the same"):
        scjepa.STJEPA.setup_anndata(whole.copy())
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        scjepa.STJEPA.setup_anndata(adata)


@pytest.mark.parametrize("preset", ["demo", "technologies"])
def test_training_on_the_same_genes_warns_and_is_diagnosed_first(whole, preset):
    model = model_of(whole.copy(), preset, tokens={"ranks": "counts", "left_out": (), "n_tokens": 16})
    with pytest.warns(UserWarning, match="tokens of all cells are nearly the same genes"):
        model.train(accelerator="cpu", progress_bar=False)
    told = model.diagnose()
    assert told.verdict == "same tokens"
    assert told.evidence[0].startswith("the tokens of all cells")
    assert "'ranks': 'auto'" in told.advice[0]
    mended = model_of(whole.copy(), preset, tokens={"ranks": "auto", "left_out": "auto"})
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="The tokens of all cells")
        mended.train(accelerator="cpu", progress_bar=False)
    assert mended.diagnose().verdict != "same tokens"
    assert "auto" not in str(mended.diagnose())


def test_what_is_published_is_frozen():
    """Presets that repeat a paper, and the objective of its first version, are what they were."""
    plain = {
        "n_tokens": 64,
        "n_neighbors": 10,
        "values": "counts",
        "ranks": "counts",
        "ties": "order",
        "tokenizer": "graph",
        "left_out": (),
    }
    for preset in ("paper", "paper_ablation"):
        assert dataclasses.asdict(PRESETS[preset].tokens) == plain
    technologies = dataclasses.replace(PRESETS["technologies"].tokens, ranks="counts", left_out=())  # as on any panel
    assert dataclasses.asdict(technologies) == {**plain, "n_tokens": 16, "values": "nonzero_mean"}
    first = resolve("paper", objective="lejepa")
    assert dataclasses.asdict(first.tokens) == plain
    assert first.objective.sigreg_share == 0.05
    digests = {name: json.dumps(PRESETS[name].to_dict(), sort_keys=True, default=list) for name in ("paper",)}
    assert '"max_epochs": 800' in digests["paper"]


def test_spread_of_a_table_without_tokens_is_defined():
    from scjepa.tokens import TokenTable

    empty = TokenTable(np.zeros(3, np.int64), np.zeros(0, np.int16), np.zeros(0, np.uint16), None, 4, np.zeros(2, int))
    assert not TokenSpread.of(empty, 4).same
