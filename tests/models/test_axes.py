"""Every value of every axis of the paper: it trains, embeds cells for themselves, and travels."""

from __future__ import annotations

import json

import numpy as np
import pytest

import scjepa
from scjepa.stjepa import MASKING_SCHEMES
from scjepa.stjepa.config import STJEPAConfig, resolve

pytestmark = pytest.mark.filterwarnings("ignore:Genes the model does not know", "ignore:This model is not trained")
QUIET = {"accelerator": "cpu", "progress_bar": False}

AXES = {
    "rank": {"encoder": {"value": "none"}},
    "counts": {"encoder": {"rank": "none"}},
    "combined": {"encoder": {"value": "mlp"}},
    "bins": {"encoder": {"value": "bins", "n_bins": 20}},
    "pearson_values": {"tokens": {"values": "pearson_residuals"}},
    "seurat_values": {"tokens": {"values": "seurat_v3"}, "encoder": {"value": "mlp"}},
    "pearson_ranks": {"tokens": {"ranks": "pearson_residuals"}},
    "pearson_of_sums": {"tokens": {"tokenizer": "neighborhood", "values": "pearson_residuals", "ranks": "seurat_v3"}},
    "lejepa": {"objective": "lejepa", "training": {"batches": "mixed", "max_steps": 5, "batch_size": 16}},
    "sigreg": {"objective": {"variance_weight": 0.0, "covariance_weight": 0.0, "sigreg_weight": 0.05}},
    "coordinate": {"encoder": {"segment": "coordinate"}},
    "no_metatoken": {"encoder": {"metatoken": False}},
    "literal": {"objective": {"target_view": "masked", "target_norm": "none", "query": "rank"}},
    "neighborhood": {"tokens": {"tokenizer": "neighborhood"}},
    "neighborhood_normalized": {
        "tokens": {"tokenizer": "neighborhood", "values": "shifted_log", "ranks": "nonzero_mean"}
    },
}


OF_TRAINING = {
    **{scheme: {"masking": {"scheme": scheme}} for scheme in MASKING_SCHEMES},
    **{f"ratio_{ratio}": {"masking": {"ratio": ratio}} for ratio in (0.3, 0.9)},
    **{f"bins_{n_bins}": {"encoder": {"value": "bins", "n_bins": n_bins}} for n_bins in (50, 100)},
    **{f"length_{n_tokens}": {"tokens": {"n_tokens": n_tokens}} for n_tokens in (16, 512)},
    "lejepa_of_sums": {"objective": "lejepa", "tokens": {"tokenizer": "neighborhood"}},
    "lejepa_of_whole_cells": {"objective": {"name": "lejepa", "n_views": 3}, "masking": {"scheme": "whole_cell"}},
}
"""Values that are nothing new once a model is trained."""


def merged(axis):
    """Return the parts of an axis, small enough for a test."""
    chosen = AXES.get(axis) or OF_TRAINING[axis]
    parts = {name: dict(part) if isinstance(part, dict) else part for name, part in chosen.items()}
    parts["tokens"] = {"n_tokens": 8, "n_neighbors": 6, **parts.get("tokens", {})}
    parts["encoder"] = {"width": 32, "n_layers": 1, "n_heads": 2, **parts.get("encoder", {})}
    return parts


@pytest.fixture(scope="module", params=list(AXES))
def fitted(request, make_tissue, make_model):
    """Return a model of each axis, trained for five steps, and its data."""
    adata = make_tissue(n=80)
    model = make_model(adata, **merged(request.param))
    model.train(max_steps=5, **QUIET)
    return model, adata


def test_it_trains_and_embeds_at_all_scales(fitted):
    model, _ = fitted
    losses = model.history_["loss"]["loss"]
    assert len(losses) == 5
    assert np.isfinite(losses).all()
    for scale in ("neighborhood", "cell"):
        embedding = model.get_latent_representation(scale=scale)
        assert embedding.shape == (80, 32)
        assert np.isfinite(embedding).all()
        assert embedding.std(axis=0).min() > 0
    genes = model.get_gene_representation()
    assert genes.shape == (24, 32)
    assert model.diagnose().verdict != "untrained"


@pytest.mark.parametrize("axis", list(OF_TRAINING))
def test_it_trains(axis, make_tissue, make_model):
    model = make_model(make_tissue(n=80), **merged(axis))
    model.train(max_steps=5, **QUIET)
    assert np.isfinite(model.history_["loss"]["loss"]).all()
    assert np.isfinite(model.get_latent_representation()).all()
    assert STJEPAConfig.from_dict(json.loads(json.dumps(model.config.to_dict()))) == model.config


def test_an_embedding_depends_on_its_neighborhood_alone(fitted):
    model, adata = fitted
    for scale in ("neighborhood", "cell"):
        every = model.get_latent_representation(scale=scale)
        np.testing.assert_allclose(
            model.get_latent_representation(scale=scale, batch_size=7), every, rtol=1e-4, atol=1e-5
        )
        rows = np.flatnonzero(adata.obs["section"] == "s2")
        one = model.get_latent_representation(adata[rows].copy(), scale=scale)
        np.testing.assert_allclose(one, every[rows], rtol=1e-4, atol=1e-5)
    masked = next(model.get_masked_representations(n_masks=1))
    assert masked.shape == every.shape


def test_it_is_saved_loaded_and_taken_to_a_query(fitted, tmp_path):
    model, adata = fitted
    assert STJEPAConfig.from_dict(json.loads(json.dumps(model.config.to_dict()))) == model.config
    model.save(tmp_path / "m")
    loaded = scjepa.STJEPA.load(tmp_path / "m", adata.copy(), accelerator="cpu")
    for scale in ("neighborhood", "cell"):
        np.testing.assert_array_equal(
            loaded.get_latent_representation(scale=scale), model.get_latent_representation(scale=scale)
        )
    query = adata.copy()
    query.var_names = [{"Gene03": "New"}.get(name, name) for name in query.var_names]
    query.obs["technology"] = query.obs["technology"].cat.rename_categories({"B": "C"})
    taken = scjepa.STJEPA.load_query_data(query, tmp_path / "m", accelerator="cpu")
    assert taken.get_latent_representation().shape == (80, 32)
    taken.train(max_steps=1, **QUIET)
    assert np.isfinite(taken.history_["loss"]["loss"]).all()


def test_the_cell_scale_of_summed_counts_is_the_cell_alone(make_tissue, make_model):
    adata = make_tissue(n=80)
    model = make_model(adata, tokens={"n_tokens": 8, "n_neighbors": 6, "tokenizer": "neighborhood"})
    other = adata.copy()
    other.X = other.X.copy()
    changed = np.arange(80) % 2 == 0
    other.X[changed] = other.X[changed] * 2
    before, after = (model.get_latent_representation(x, scale="cell") for x in (adata, other))
    np.testing.assert_allclose(before[~changed], after[~changed], atol=1e-5)
    assert not np.isclose(before[changed], after[changed], atol=1e-3).all(axis=1).any()
    before, after = (model.get_latent_representation(x) for x in (adata, other))
    same = np.isclose(before, after, atol=1e-4).all(axis=1)
    assert same.mean() < 0.1  # those whose neighbors are all as they were


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({"masking": {"scheme": "whole_cell"}}, "hides cells.*tells no cells.*'stratified'"),
        ({"objective": {"token_weight": 0, "neighborhood_weight": 0, "nearby_weight": 0}}, "neighborhood_weight"),
    ],
)
def test_what_needs_cells_is_refused_where_none_is_told_apart(parts, words):
    with pytest.raises(ValueError, match=words):
        resolve("base", tokens={"tokenizer": "neighborhood"}, **parts)
