"""What another tool in the session made torch's default type of new tensors says nothing here."""

from __future__ import annotations

from contextlib import contextmanager

import numpy as np
import pytest
import torch

import scjepa

QUIET = {"accelerator": "cpu", "progress_bar": False}


@contextmanager
def default(dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
        assert torch.get_default_dtype() == dtype  # and is not changed for the other tool either
    finally:
        torch.set_default_dtype(before)


def assert_same(one, other):
    assert one.keys() == other.keys()
    for name, value in one.items():
        np.testing.assert_array_equal(np.asarray(value), np.asarray(other[name]), err_msg=name)
        assert np.asarray(value).dtype != np.float64


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"masking": {"scheme": "whole_cell", "n_masks": 2, "query_fraction": 0.5}, "encoder": {"rank": "none"}},
        {"masking": {"scheme": "rank_span"}, "encoder": {"segment": "coordinate", "value": "bins"}},
        {"objective": {"name": "lejepa"}, "encoder": {"dropout": 0.1}, "training": {"batches": "mixed"}},
        {"objective": {"sigreg_weight": 0.1, "pooled": "agreed"}, "tokens": {"tokenizer": "neighborhood"}},
    ],
)
def test_stjepa_is_the_same_model(make_tissue, make_model, changes, dtype, tmp_path):
    def made():
        small = {"tokens": {"n_tokens": 8, "n_neighbors": 6}, "encoder": {"width": 32, "n_layers": 1, "n_heads": 2}}
        parts = {name: {**small.get(name, {}), **changes.get(name, {})} for name in {*small, *changes}}
        parts["training"] = {"max_steps": 4, "batch_size": 16, **changes.get("training", {})}
        model = make_model(make_tissue(), **parts)
        model.train(**QUIET)
        return model, {
            **model.module.state_dict(),
            "embedding": model.get_latent_representation(),
            "cells": model.get_latent_representation(scale="cell"),
            "masked": next(model.get_masked_representations(n_masks=1)),
            "genes": model.get_gene_representation(),
        }

    _, expected = made()
    with default(dtype):
        model, found = made()
        model.save(tmp_path / "model")
        again = scjepa.STJEPA.load(tmp_path / "model", make_tissue())
        query = scjepa.STJEPA.load_query_data(make_tissue(seed=1), model)
        query.train(max_steps=2, **QUIET)
        model.estimate()
    assert_same(found, expected)
    np.testing.assert_array_equal(again.get_latent_representation(), found["embedding"])
    assert all(weight.dtype == torch.float32 for weight in query.module.parameters())
