"""Embeddings with hidden tokens."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix

import scjepa
from scjepa.stjepa.latent import visible
from scjepa.stjepa.model import STJEPA


def _stack(model, adata=None, **how):
    return np.stack(list(model.get_masked_representations(adata, **how)))


def test_each_mask_is_another_embedding_near_the_whole_one(trained):
    model, adata = trained
    masked = _stack(model, n_masks=3)
    assert masked.shape == (3, adata.n_obs, 32)
    assert masked.dtype == np.float32
    whole = model.get_latent_representation()
    spread = np.linalg.norm(whole - whole.mean(axis=0), axis=1).mean()
    for one in masked:
        moved = np.linalg.norm(one - whole, axis=1)
        assert (moved > 0).all()
        assert moved.mean() < spread
    assert not np.allclose(masked[0], masked[1])


def test_a_higher_ratio_moves_cells_further(trained):
    model, _ = trained
    whole = model.get_latent_representation()
    moved = [np.linalg.norm(_stack(model, n_masks=2, ratio=r) - whole, axis=-1).mean() for r in (0.1, 0.4, 0.8)]
    assert moved[0] < moved[1] < moved[2]


@pytest.mark.parametrize("ratio", [0.01, 0.3, 0.5, 0.99])
def test_each_cell_hides_its_share_and_keeps_one_token(trained, ratio):
    model, _ = trained
    batch = model._source(None).batch(torch.arange(40))
    keep = visible(batch, ratio, seed=3, number=1)
    sizes = torch.bincount(batch.blocks)
    hidden = torch.bincount(batch.blocks[~keep], minlength=len(sizes))
    expected = torch.minimum(torch.round(ratio * sizes).long(), (sizes - 1).clamp_min(0))
    assert torch.equal(hidden, expected)


def test_a_hidden_cell_says_nothing_and_its_neighbors_do(trained):
    """Counts of one cell, read backwards, move every cell that has it for a neighbor, and not the cell itself."""
    model, adata = trained
    before = _stack(model, adata, hide="cell")
    assert before.shape == (1, adata.n_obs, 32)
    changed, counts = adata.copy(), adata.X.toarray()
    counts[0] = counts[0, ::-1]
    changed.X = csr_matrix(counts)
    moved = np.abs(_stack(model, changed, hide="cell") - before)[0].max(axis=1)
    near = adata.obsp["spatial_connectivities"][:, [0]].toarray()[:, 0] > 0
    assert moved[0] < 1e-5
    assert (moved[near] > 1e-4).any()
    assert moved[~near].max() < 1e-5


def test_every_token_is_hidden_equally_often(trained):
    model, _ = trained
    batch = model._source(None).batch(torch.arange(20))
    kept = torch.stack([visible(batch, 0.5, seed=0, number=m) for m in range(400)]).double().mean(0)
    sizes = torch.bincount(batch.blocks)[batch.blocks]
    expected = 1 - torch.round(0.5 * sizes) / sizes
    # 400 draws: five standard errors are 0.125.
    assert (kept - expected).abs().max() < 0.125
    ranks = torch.stack([kept[batch.ranks == rank].mean() for rank in range(4)])
    assert ranks.max() - ranks.min() < 0.05


def test_masks_repeat_and_do_not_depend_on_their_number_or_the_batch_size(trained):
    model, _ = trained
    three = _stack(model, n_masks=3, seed=5)
    np.testing.assert_array_equal(three[:2], _stack(model, n_masks=2, seed=5))
    np.testing.assert_allclose(three, _stack(model, n_masks=3, seed=5, batch_size=7), atol=1e-5)
    assert not np.allclose(three, _stack(model, n_masks=3, seed=6))


def test_shuffling_cells_and_genes_leaves_every_masked_cell_the_same(trained):
    model, adata = trained
    rng = np.random.default_rng(0)
    order = rng.permutation(adata.n_obs)
    shuffled = adata[order, rng.permutation(adata.n_vars)].copy()
    np.testing.assert_allclose(_stack(model, shuffled, n_masks=2), _stack(model, n_masks=2)[:, order], atol=1e-5)


def test_other_scales_and_encoders_are_told_apart(trained):
    model, _ = trained
    default = _stack(model, n_masks=1)
    assert not np.allclose(default, _stack(model, n_masks=1, scale="cell"))
    assert not np.allclose(default, _stack(model, n_masks=1, encoder="context"))


def test_it_is_made_as_it_is_asked_for_and_leaves_gradients_on(trained):
    model, _ = trained
    masked = model.get_masked_representations(n_masks=10_000)
    assert iter(masked) is masked
    next(masked)
    assert not torch.is_inference_mode_enabled()


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"hide": "cells"}, "Did you mean 'cell'"),
        ({"hide": "cell", "scale": "cell"}, "scale='cell' is the cell"),
        ({"n_masks": 0}, "n_masks must be 1 or more"),
        ({"ratio": 0.0}, "ratio must lie between 0 and 1"),
        ({"ratio": 1.0}, "ratio must lie between 0 and 1"),
        ({"scale": "neighbourhood"}, "Did you mean 'neighborhood'"),
        ({"encoder": "teacher"}, "encoder must be"),
        ({"batch_size": 0}, "batch_size must be"),
    ],
)
def test_bad_options_are_told_at_once(trained, how, message):
    with pytest.raises(ValueError, match=message):
        trained[0].get_masked_representations(**how)


def test_an_untrained_model_says_so(make_model, adata):
    model: STJEPA = make_model(adata)
    with pytest.warns(UserWarning, match="not trained"):
        model.get_masked_representations()


def _with_niches(model, adata, read_out, use_rep, **how):
    adata.obsm["X_stjepa"] = model.get_latent_representation(adata)
    adata.obsm["X_stjepa_cell"] = model.get_latent_representation(adata, scale="cell")
    read_out(adata)
    scjepa.tl.niches(adata, use_rep, n_niches=2, **how)
    return adata


READ_OUTS = {
    "documented": (lambda adata: scjepa.tl.niche_readout(adata), "X_stjepa_niche"),
    "embedding alone": (lambda adata: scjepa.tl.niche_readout(adata, "X_stjepa_cell"), "X_stjepa_niche"),
    "neighborhoods": (lambda adata: scjepa.tl.niche_readout(adata, "X_stjepa", align="covariance"), "X_stjepa_niche"),
    "z-scores": (lambda adata: scjepa.tl.standardize(adata, library_key="section", n_comps=8), "X_stjepa_standardized"),
    "rings": (lambda adata: scjepa.tl.aggregate(adata, "X_stjepa_cell", n_hops=2), "X_stjepa_cell_hops"),
    "components": (
        lambda adata: scjepa.tl.predictive_components(adata, "X_stjepa_cell", key_added="X_predictive"),
        "X_predictive",
    ),
    "none": (lambda adata: None, "X_stjepa"),
}


@pytest.mark.parametrize("name", READ_OUTS)
def test_confidence_of_niches_of_every_read_out_takes_the_documented_call(trained, fresh, tmp_path, name):
    model, adata = trained
    adata = _with_niches(model, fresh(adata), *READ_OUTS[name])
    scjepa.tl.niche_confidence(adata, model.get_masked_representations(adata, n_masks=3))
    found = adata.obs["niche_confidence"]
    assert found.between(0, 1).all()
    other = adata.copy()
    other.obs["niche"] = np.random.default_rng(0).permutation(other.obs["niche"].astype(str))
    scjepa.tl.niche_confidence(other, model.get_masked_representations(adata, n_masks=3))
    assert found.mean() > other.obs["niche_confidence"].mean() + 0.1  # than of niches at random
    # From a file, the notes say as much.
    adata.write_h5ad(tmp_path / "a.h5ad")
    back = ad.read_h5ad(tmp_path / "a.h5ad")
    scjepa.tl.niche_confidence(back, model.get_masked_representations(adata, n_masks=3))
    np.testing.assert_allclose(back.obs["niche_confidence"], found, atol=1e-6)


def test_read_outs_of_readers_are_taken_as_they_are_and_embeddings_are_read_out(trained, fresh):
    model, adata = trained
    adata = _with_niches(model, fresh(adata), *READ_OUTS["rings"])
    masked = list(model.get_masked_representations(adata, n_masks=2, scale="cell"))
    scjepa.tl.niche_confidence(adata, masked)
    expected = adata.obs["niche_confidence"].copy()
    graph = adata.obsp["spatial_connectivities"]
    scjepa.tl.niche_confidence(adata, (scjepa.tl.aggregate(one, connectivities=graph, n_hops=2) for one in masked))
    np.testing.assert_allclose(adata.obs["niche_confidence"], expected)


def test_masks_of_another_scale_model_or_state_are_refused(trained, fresh, make_model):
    model, adata = trained
    adata = _with_niches(model, fresh(adata), *READ_OUTS["embedding alone"])
    for masked in (
        model.get_masked_representations(adata, scale="neighborhood"),
        model.get_masked_representations(adata, encoder="context"),
        model.get_masked_representations(adata, genes="shared"),
        make_model(adata, seed=1).get_masked_representations(),
    ):
        with pytest.raises(ValueError, match="is not what this model gives for these cells now"):
            scjepa.tl.niche_confidence(adata, masked)
    assert "niche_confidence" not in adata.obs
    adata.obsm["X_stjepa_cell"] = model.get_latent_representation(adata, scale="cell")[::-1].copy()
    with pytest.raises(ValueError, match=r"X_stjepa_niche'\] is not the read-out of adata.obsm\['X_stjepa_cell'\]"):
        scjepa.tl.niche_confidence(adata, list(model.get_masked_representations(adata, scale="cell", n_masks=1)))


def test_niches_of_counts_alone_are_looked_at_in_the_embedding(trained, fresh):
    model, adata = trained
    adata = _with_niches(model, fresh(adata), lambda adata: scjepa.tl.niche_readout(adata, "X"), "X_stjepa_niche")
    with pytest.warns(UserWarning, match=r"read from counts and no embedding.*X_stjepa_cell"):
        scjepa.tl.niche_confidence(adata, model.get_masked_representations(adata))
    assert adata.obs["niche_confidence"].between(0, 1).all()
    del adata.obsm["X_stjepa_cell"], adata.obsm["X_stjepa"]
    with pytest.raises(ValueError, match=r"no embedding.*model\.niches\(adata\)"):
        scjepa.tl.niche_confidence(adata, model.get_masked_representations(adata))


def test_the_scale_is_that_of_neighborhoods_where_nobody_asks(trained):
    model, _ = trained
    usual, named = _stack(model, n_masks=1), _stack(model, n_masks=1, scale="neighborhood")
    np.testing.assert_array_equal(usual, named)
    assert not np.allclose(usual, _stack(model, n_masks=1, scale="cell"))
