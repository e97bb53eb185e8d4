"""The checkpoints that come with the package."""

from __future__ import annotations

import json

import anndata as ad
import numpy as np
import pytest

import scjepa
from scjepa._core.squidpy import spatial_graph
from scjepa.pretrained import shipped


@pytest.fixture(scope="module")
def tissue() -> ad.AnnData:
    """Return cells with half of the checkpoint's genes and one it does not know."""
    facts = json.loads((shipped()["mouse-brain-small"] / "model.json").read_text())
    genes = [*facts["vocabulary"][::2], "NotAGene"]
    rng = np.random.default_rng(0)
    adata = ad.AnnData(
        rng.poisson(0.3, size=(120, len(genes))).astype(np.float32), obsm={"spatial": rng.random((120, 2))}
    )
    adata.var_names = genes
    spatial_graph(adata, n_neighs=10)
    return adata


def test_a_checkpoint_is_listed_small_and_says_how_it_scored_on_what_it_had_not_seen():
    assert "mouse-brain-small" in scjepa.pretrained.available().index
    folder = shipped()["mouse-brain-small"]
    assert sum(file.stat().st_size for file in folder.iterdir()) < 12e6
    scores = json.loads((folder / "model.json").read_text())["card"]["scores"]
    hops = {(row["left_out"], row["method"]): row["nmi"] for row in scores if row["readout"] == "hops"}
    for left_out in ("V1", "mPFC", "osmFISH"):
        assert hops[left_out, "trained"] >= hops[left_out, "untrained"] + 0.02


def test_it_embeds_cells_of_another_panel(tissue):
    model = scjepa.STJEPA.from_pretrained("mouse-brain-small", tissue, accelerator="cpu")
    cells = model.get_latent_representation(scale="cell")
    assert cells.shape == (120, 64)
    assert np.isfinite(cells).all()
    assert "NotAGene" in str(model.coverage())
    assert model.is_trained_


# -- of dissociated cells ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def blood() -> ad.AnnData:
    """Return cells with half of the genes that the checkpoint of blood knows, and one it does not."""
    genes = [*scjepa.pretrained.vocabulary("human-blood-small").names[::2], "NotAGene"]
    counts = np.random.default_rng(0).poisson(0.3, size=(40, len(genes))).astype(np.float32)
    adata = ad.AnnData(counts)
    adata.var_names = genes
    return adata


def test_that_of_blood_is_small_and_says_how_it_scored_on_each_study_that_was_left_out():
    assert "human-blood-small" in scjepa.pretrained.available().index
    folder = shipped()["human-blood-small"]
    assert sum(file.stat().st_size for file in folder.iterdir()) < 12e6
    card, _ = scjepa.pretrained.read_card(folder)
    scores = {(row["set"], row["method"]): row["avg_bio"] for row in card.scores}
    sets = {"pbmc3k", "pbmc4k_half", "pbmc_kang_muscat", "pbmc68k_reduced"}
    assert {name for name, _ in scores} == sets
    assert all(scores[name, "trained"] > scores[name, "untrained"] for name in sets)
    assert card.license
    assert all(row["source"] for row in card.data)


def test_that_of_blood_embeds_cells_of_other_genes(blood):
    known = blood[:, :-1].copy()
    model = scjepa.CellJEPA.from_pretrained("human-blood-small", known, accelerator="cpu")
    cells = model.get_latent_representation()
    assert cells.shape == (40, 64)
    assert np.isfinite(cells).all()
    assert model.is_trained_
    np.testing.assert_allclose(model.get_latent_representation(blood), cells, atol=1e-5)  # leaves out the other gene
