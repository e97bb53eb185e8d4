from __future__ import annotations

import numpy as np
import pytest
import torch

import scjepa

QUIET = {"accelerator": "cpu", "progress_bar": False}


@pytest.fixture
def double():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def results(adata, make_model):
    model = make_model(adata, masking={"ratio": (0.3, 0.5)})
    model.train(**QUIET)
    model.finetune(max_steps=3, **QUIET)
    model.train_perturbation(max_steps=2, **QUIET)
    return {
        **model._weights(),
        "embedding": model.get_latent_representation(),
        "genes": model.get_latent_representation(scale="genes"),
        "expression": model.predict_expression(["GENE1", "GENE2"], adata[:5].copy()).to_numpy(),
        "perturbed": model.predict_perturbation(["GENE3"], method="network").X,
    }


def test_celljepa_is_the_same_model_whatever_torchs_default(make_adata, make_model, request):
    adata = make_adata(80)
    adata.obs["condition"] = np.where(np.arange(80) % 2, "ctrl", "GENE1+ctrl")
    expected = results(adata.copy(), make_model)
    request.getfixturevalue("double")
    found = results(adata.copy(), make_model)
    for name, value in expected.items():
        np.testing.assert_array_equal(np.asarray(found[name]), np.asarray(value), err_msg=name)


def test_modules_train_whatever_torchs_default(make_adata, double):
    adata = make_adata(80)
    scjepa.CellJEPA.setup_anndata(adata)
    modules = {f"m{i}": [f"GENE{j}" for j in range(i, 45, 3)] for i in range(3)}
    small = {"encoder": {"width": 32, "n_layers": 1, "n_heads": 2}}
    model = scjepa.CellJEPA(adata, "modules", modules=modules, **small)
    model.train(max_steps=3, **QUIET)
    assert model.get_latent_representation().dtype == np.float32
    assert all(weight.dtype == torch.float32 for weight in model.module.parameters())
