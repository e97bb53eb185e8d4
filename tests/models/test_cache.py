"""Tables kept on disk between sessions, and data that is on disk itself."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pytest
from scipy import sparse

import scjepa
from scjepa._core import counts as core_counts
from scjepa.tokens.table import counts_digest

pytestmark = pytest.mark.filterwarnings("ignore:This model is not trained")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Return the cache folder in use."""
    monkeypatch.setattr(scjepa.settings, "cache_dir", tmp_path / "cache")
    return tmp_path / "cache"


def names(folder):
    return sorted(path.name.split("-")[0] for path in folder.iterdir())


def test_mapped_tables_give_the_same_embeddings_and_training(make_tissue, make_model, tmp_path, monkeypatch):
    results = []
    for folder in (None, tmp_path, str(tmp_path)):  # built in memory, built and mapped, mapped
        monkeypatch.setattr(scjepa.settings, "cache_dir", folder)
        model = make_model(make_tissue())
        model.train(accelerator="cpu", progress_bar=False)
        results.append(model.get_latent_representation())
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0], results[2])
    assert names(tmp_path) == ["neighbors", "tokens"]
    assert isinstance(model._own_tables().tokens.genes, np.memmap)


def test_each_data_and_option_has_tables_of_its_own(adata, make_model, with_graph, cache):
    make_model(adata).get_latent_representation()
    assert names(cache) == ["neighbors", "tokens"]
    make_model(adata, encoder={"width": 16, "n_layers": 1, "n_heads": 1}).get_latent_representation()
    assert len(names(cache)) == 2  # the encoder has no part in them
    make_model(adata, tokens={"n_tokens": 4, "n_neighbors": 6}).get_latent_representation()
    assert names(cache) == ["neighbors", "tokens", "tokens"]
    make_model(adata, tokens={"n_tokens": 4, "n_neighbors": 3}).get_latent_representation(genes="shared")
    assert names(cache) == ["neighbors", "neighbors", "tokens", "tokens", "tokens"]
    other = adata.copy()
    other.X[0, 0] += 1
    other.obsm["spatial"] = other.obsm["spatial"] * 2
    make_model(with_graph(other)).get_latent_representation()
    assert names(cache) == [*["neighbors"] * 3, *["tokens"] * 4]


def test_a_damaged_cache_is_refused_and_says_what_to_do(adata, make_model, cache):
    make_model(adata).get_latent_representation()
    path = next(cache.glob("tokens-*"))
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(ValueError, match="Delete the file and run again"):
        make_model(adata).get_latent_representation()


def test_a_cache_says_the_same_of_counts_in_every_form(adata):
    dense = adata.X.toarray()
    forms = (adata.X, adata.X.tocsc(), dense, sparse.csr_array(dense.astype(np.float32)), dense.astype(np.uint8))
    assert len({counts_digest(form) for form in forms}) == 1
    changed = dense.copy()
    changed[-1, -1] += 1
    assert counts_digest(changed) != counts_digest(dense)


# -- counts that are on disk ----------------------------------------------------------------------------------------


def on_disk(adata, kind, path):
    """Return ``adata`` with its counts in a file."""
    if kind == "h5ad":
        adata.write_h5ad(path / "a.h5ad")
        return ad.read_h5ad(path / "a.h5ad", backed="r")
    zarr = pytest.importorskip("zarr")
    if kind == "zarr, dense":
        adata = adata.copy()
        adata.X = adata.X.toarray()
    adata.write_zarr(path / "a.zarr")
    group = zarr.open_group(path / "a.zarr", mode="r")
    lazy = adata.copy()
    if kind == "zarr, sparse":
        lazy.X = ad.io.sparse_dataset(group["X"])
    elif kind == "zarr, lazy":
        pytest.importorskip("dask")
        lazy.X = ad.experimental.read_elem_lazy(group["X"])
    else:
        lazy.X = group["X"]
    return lazy


@pytest.mark.parametrize("with_cache", [False, True])
@pytest.mark.parametrize("kind", ["h5ad", "zarr, sparse", "zarr, lazy", "zarr, dense"])
def test_counts_on_disk_give_the_same_embeddings(adata, make_model, tmp_path, monkeypatch, kind, with_cache):
    reference = make_model(adata.copy()).get_latent_representation()
    monkeypatch.setattr(core_counts, "_LARGEST_CHUNK", 17 * adata.n_vars)  # several chunks, in order
    if with_cache:
        monkeypatch.setattr(scjepa.settings, "cache_dir", tmp_path / "cache")
    model = make_model(on_disk(adata, kind, tmp_path))
    np.testing.assert_array_equal(model.get_latent_representation(), reference)
    tables = model._own_tables()
    assert model._own_tables() is tables  # and they are built once
