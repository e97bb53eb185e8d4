"""A model of one technology, taken to others, on the development data."""

from __future__ import annotations

import numpy as np
import pytest

import scjepa
from scjepa._core.squidpy import spatial_graph

pytestmark = pytest.mark.data
CPU = {"accelerator": "cpu"}


def load(data_dir, name, n_cells=400):
    """Return the cells of a set that are nearest to one corner, with their graph."""
    adata = scjepa.datasets.load(name, data_dir / "spatial")
    first = adata.obs["section"].astype(str) == str(adata.obs["section"].iloc[0])
    place = np.where(first, np.asarray(adata.obsm["spatial"]).sum(axis=1), np.inf)
    adata = adata[np.sort(np.argsort(place)[:n_cells])].copy()
    spatial_graph(adata, n_neighs=10)
    return adata


@pytest.fixture(scope="module")
def reference(data_dir):
    adata = load(data_dir, "starmap_visual_cortex")
    scjepa.STJEPA.setup_anndata(adata, technology_key="technology", library_key="section")
    model = scjepa.STJEPA(adata, "demo")
    model.train(max_steps=5, progress_bar=False, **CPU)
    return model


@pytest.mark.parametrize(
    ("name", "matched", "genes"),
    [("osmfish_somatosensory_cortex", 19, 33), ("molcart_mouse_cortex_3sections", 69, 100)],
)
def test_other_panels_are_covered_and_taken_in(data_dir, reference, name, matched, genes):
    adata = load(data_dir, name)
    coverage = reference.coverage(adata, cost=True)
    assert (coverage.n_matched, coverage.n_query, coverage.n_model) == (matched, genes, 1020)
    assert 0 < coverage.share_of_counts < 1
    assert coverage.cost.neighbors > 2 * coverage.cost.neighbors_by_chance
    with pytest.warns(UserWarning, match=f"{matched} of {genes}"):
        known = reference.get_latent_representation(adata)
    query = scjepa.STJEPA.load_query_data(adata, reference, **CPU)
    embedded = query.get_latent_representation()
    assert len(query.vocabulary) == 1020 + genes - matched
    assert np.isfinite(embedded).all()
    assert not np.allclose(embedded, known)
    query.train(max_steps=2, progress_bar=False, **CPU)
    assert np.isfinite(query.get_latent_representation()).all()


def test_a_checkpoint_of_two_sets_is_small_and_embeds_a_third(data_dir, tmp_path):
    both = scjepa.concat(
        {name: load(data_dir, name, 200) for name in ("starmap_visual_cortex", "starmap_mpfc_3sections")}
    )
    scjepa.STJEPA.setup_anndata(both, technology_key="technology", library_key="section", panel_key="panel")
    model = scjepa.STJEPA(both, "demo")
    assert model.technologies == ("STARmap",)
    assert len(model.panels.shared()) == 157
    model.train(max_steps=2, progress_bar=False, **CPU)
    model.save_pretrained(tmp_path / "two")
    assert sum(file.stat().st_size for file in (tmp_path / "two").iterdir()) < 2e6
    osmfish = load(data_dir, "osmfish_somatosensory_cortex")
    loaded = scjepa.STJEPA.from_pretrained(tmp_path / "two", osmfish, **CPU)
    direct = scjepa.STJEPA.load_query_data(osmfish, model, **CPU)
    np.testing.assert_array_equal(loaded.get_latent_representation(), direct.get_latent_representation())
