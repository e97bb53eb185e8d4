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
