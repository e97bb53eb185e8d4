"""Fitted estimators outlive the session: as a dictionary, in h5ad and zarr, and in a file of their own."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pytest
from safetensors.numpy import save_file
from sklearn.exceptions import NotFittedError

import scjepa
from scjepa.tl import NicheReadout, PredictiveComponents

GROUPS = np.repeat(["s/1", "ü ∂", "texts"], 200)


@pytest.fixture(scope="module")
def tissue(make_layers):
    adata = make_layers()
    adata.obsm["ü b"] = np.random.default_rng(0).normal(size=(600, 6)).astype(np.float32)
    return adata


@pytest.fixture(scope="module", params=["components", "readout"])
def fitted(request, tissue):
    """Return a fitted estimator and what it gives of the tissue."""
    graph = tissue.obsp["spatial_connectivities"]
    if request.param == "components":
        one = PredictiveComponents(np.int64(3), align="covariance", target_sum=1e4).fit(tissue.X, graph, GROUPS)
        return one, lambda other: other.transform(tissue.X, GROUPS)
    sources = {"X": tissue.X, "a/b": tissue.obsm["ü b"]}
    one = NicheReadout(3, own_weight=0.5).fit(sources, graph, GROUPS)
    return one, lambda other: other.transform(sources, graph, GROUPS)


def _same(one, other) -> None:
    assert type(one) is type(other)
    assert one.get_params() == other.get_params()
    assert sorted(vars(one)) == sorted(vars(other))
    if isinstance(one, PredictiveComponents):
        assert list(one.groups_) == list(other.groups_)
        return
    for name in ("sources_", "left_out_", "align_", "similarity_"):
        assert getattr(one, name) == getattr(other, name)
        assert type(getattr(one, name)) is type(getattr(other, name))
    assert one.describe() == other.describe()
    for mine, theirs in zip(one.components_, other.components_, strict=True):
        _same(mine, theirs)


def test_it_is_the_same_after_a_dictionary_and_a_file(fitted, tmp_path):
    one, transformed = fitted
    path = tmp_path / "it.safetensors"
    one.save(path)
    one.save(str(path))  # replaced
    assert [file.name for file in tmp_path.iterdir()] == ["it.safetensors"]
    for other in (type(one).from_dict(one.to_dict()), type(one).load(path), type(one).load(str(path))):
        _same(one, other)
        np.testing.assert_array_equal(transformed(other), transformed(one))


@pytest.mark.parametrize("form", ["h5ad", "zarr"])
def test_it_is_the_same_after_an_object_was_written(fitted, tissue, tmp_path, form):
    one, transformed = fitted
    adata = tissue.copy()
    adata.uns["kept"] = one.to_dict()
    getattr(adata, f"write_{form}")(tmp_path / f"it.{form}")
    other = type(one).from_dict(getattr(ad, f"read_{form}")(tmp_path / f"it.{form}").uns["kept"])
    _same(one, other)
    np.testing.assert_array_equal(transformed(other), transformed(one))
    _same(other, type(one).from_dict(other.to_dict()))


@pytest.mark.parametrize("form", ["h5ad", "zarr"])
def test_what_the_tools_noted_is_read_again(tissue, tmp_path, form):
    adata = tissue.copy()
    scjepa.tl.predictive_components(adata, n_comps=3)
    scjepa.tl.niche_readout(adata, ["X", "ü b"])
    getattr(adata, f"write_{form}")(tmp_path / f"it.{form}")
    read = getattr(ad, f"read_{form}")(tmp_path / f"it.{form}")
    components, readout = scjepa.tl.predictive_components_of(read), scjepa.tl.niche_readout_of(read)
    np.testing.assert_array_equal(components.transform(read.X), adata.obsm["X_predictive"])
    sources = {"X": read.X, "ü b": read.obsm["ü b"]}
    again = readout.transform(sources, read.obsp["spatial_connectivities"])
    np.testing.assert_allclose(again, adata.obsm["X_stjepa_niche"], atol=1e-5)
    assert scjepa.tl.predictive_genes(read)["gene"].tolist() == scjepa.tl.predictive_genes(adata)["gene"].tolist()


def test_files_of_something_else_are_refused(fitted, tmp_path):
    one, _ = fitted
    other = NicheReadout if isinstance(one, PredictiveComponents) else PredictiveComponents
    one.save(tmp_path / "it.safetensors")
    with pytest.raises(ValueError, match=f"holds {type(one).__name__} and no {other.__name__}"):
        other.load(tmp_path / "it.safetensors")
    save_file({"weights": np.zeros(3)}, tmp_path / "plain.safetensors")
    with pytest.raises(ValueError, match="holds something else"):
        other.load(tmp_path / "plain.safetensors")
    (tmp_path / "text.txt").write_text("no tensors here, but text")
    with pytest.raises(ValueError, match="no whole safetensors file"):
        other.load(tmp_path / "text.txt")
    with pytest.raises(FileNotFoundError):
        other.load(tmp_path / "nothing.safetensors")


def test_a_write_that_fails_leaves_the_old_file(fitted, tmp_path, monkeypatch):
    one, transformed = fitted
    path = tmp_path / "it.safetensors"
    one.save(path)

    def fail(arrays, draft, facts):
        draft.write_bytes(b"half")
        raise OSError("no space")

    monkeypatch.setattr("safetensors.numpy.save_file", fail)
    with pytest.raises(OSError, match="no space"):
        one.save(path)
    assert [file.name for file in tmp_path.iterdir()] == ["it.safetensors"]
    np.testing.assert_array_equal(transformed(type(one).load(path)), transformed(one))


def test_what_was_not_fitted_is_not_kept(tmp_path):
    for one in (PredictiveComponents(), NicheReadout()):
        with pytest.raises(NotFittedError):
            one.to_dict()
        with pytest.raises(NotFittedError):
            one.save(tmp_path / "it.safetensors")
    assert not list(tmp_path.iterdir())
