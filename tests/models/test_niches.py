"""Niches in one call of a model: one pass of the encoder, the arrays of the single calls, keys as documented."""

from __future__ import annotations

import numpy as np
import pytest

import scjepa
from scjepa.models import embed as _embed

pytestmark = pytest.mark.filterwarnings("ignore:This model is not trained")

WRITTEN = {"X_stjepa", "X_stjepa_cell", "X_stjepa_niche"}


@pytest.fixture
def passes(monkeypatch):
    """Return what grows by the number of cells of each batch that goes through the encoder."""
    seen = []
    plain = scjepa.stjepa.STJEPAModule.forward

    def forward(self, batch, *args, **options):
        seen.append(batch.n_sequences)
        return plain(self, batch, *args, **options)

    monkeypatch.setattr(scjepa.stjepa.STJEPAModule, "forward", forward)
    return seen


@pytest.fixture
def bars(monkeypatch):
    """Return the progress bars that were made, as whether each was shown and how far it came."""
    made = []

    plain = _embed.progress.progress_bar

    def bar(*args, **options):
        made.append(plain(*args, **{**options, "delay": 0}))
        made[-1].shown = not made[-1].disable  # closing disables it
        return made[-1]

    monkeypatch.setattr(_embed.progress, "progress_bar", bar)
    return made


def test_one_pass_gives_what_the_single_calls_give(make_tissue, make_model, passes):
    adata = make_tissue()
    model = make_model(adata)
    expected = adata.copy()
    neighborhoods = model.get_latent_representation()
    cells = model.get_latent_representation(scale="cell")
    with pytest.warns(UserWarning, match="top 8 genes and get NaN") if _some_absent(model) else _quiet():
        genes = model.get_gene_representation()
    passes.clear()
    model.niches(n_niches=2)
    assert sum(passes) == adata.n_obs
    np.testing.assert_array_equal(adata.obsm["X_stjepa"], neighborhoods)
    np.testing.assert_array_equal(adata.obsm["X_stjepa_cell"], cells)
    np.testing.assert_allclose(adata.varm["X_stjepa_gene"], genes, atol=1e-6)
    expected.obsm["X_stjepa_cell"] = cells
    scjepa.tl.niche_readout(expected, library_key="section")
    scjepa.tl.niches(expected, n_niches=2)
    np.testing.assert_array_equal(adata.obsm["X_stjepa_niche"], expected.obsm["X_stjepa_niche"])
    assert adata.obs["niche"].tolist() == expected.obs["niche"].tolist()
    assert set(adata.obsm) == {"spatial", *WRITTEN}
    assert set(adata.varm) == {"X_stjepa_gene"}
    assert {"X_stjepa_niche", "niche"} <= set(adata.uns["scjepa"])


def _some_absent(model) -> bool:
    return len(np.unique(model._own_tables().tokens.genes)) < model.adata.n_vars


def _quiet():
    from contextlib import nullcontext

    return nullcontext()


@pytest.mark.parametrize("batch_size", [7, "auto"])
def test_batches_and_chunks_change_nothing(make_tissue, make_model, monkeypatch, batch_size):
    adata = make_tissue()
    model = make_model(adata)
    model.niches(n_niches=2)
    expected = {key: adata.obsm[key].copy() for key in WRITTEN}
    genes = adata.varm["X_stjepa_gene"].copy()
    monkeypatch.setattr(_embed, "CHUNK", 31)
    model.niches(n_niches=2, batch_size=batch_size, progress_bar=False)
    for key in ("X_stjepa", "X_stjepa_cell"):
        np.testing.assert_allclose(adata.obsm[key], expected[key], atol=1e-5)
    np.testing.assert_allclose(adata.varm["X_stjepa_gene"], genes, atol=1e-5)


def test_progress_is_shown_where_asked_and_comes_to_the_end(make_tissue, make_model, monkeypatch, bars):
    adata = make_tissue()
    model = make_model(adata)
    monkeypatch.setattr(_embed, "CHUNK", 50)
    model.niches(progress_bar=True)
    model.niches(progress_bar=False)
    model.niches()  # no terminal, no notebook
    assert [bar.shown for bar in bars] == [True, False, False]
    assert bars[0].n == bars[0].total == adata.n_obs


def test_where_counts_of_a_neighborhood_are_summed(make_tissue, make_model, passes):
    adata = make_tissue()
    model = make_model(adata, tokens={"tokenizer": "neighborhood", "n_tokens": 8, "n_neighbors": 6})
    neighborhoods = model.get_latent_representation()
    cells = model.get_latent_representation(scale="cell")
    passes.clear()
    model.niches(n_niches=2)
    assert sum(passes) == 2 * adata.n_obs  # a cell alone is another sequence
    np.testing.assert_array_equal(adata.obsm["X_stjepa"], neighborhoods)
    np.testing.assert_array_equal(adata.obsm["X_stjepa_cell"], cells)
    assert np.abs(neighborhoods - cells).max() > 0.01


def test_niches_of_other_data_are_written_there_by_its_own_keys(make_tissue, make_model, with_graph):
    model = make_model(make_tissue())
    other = make_tissue(seed=1)[:, 3:].copy()
    other.var_names = [*other.var_names[:-1], "unknown"]
    other.layers["raw"] = other.X.copy()
    other.X = None
    other.obs["slide"] = other.obs.pop("section")
    scjepa.STJEPA.setup_anndata(other, layer="raw", technology_key="technology", library_key="slide")
    with pytest.warns(UserWarning, match="Genes the model does not know are left out"):
        model.niches(other, 2)
    assert other.uns["scjepa"]["X_stjepa_niche"]["layer"] == "raw"
    assert other.uns["scjepa"]["X_stjepa_niche"]["library_key"] == "slide"
    assert other.obs["niche"].nunique() == 2
    genes = other.varm["X_stjepa_gene"]
    assert genes.shape == (21, 32)
    assert np.isnan(genes[-1]).all()
    assert np.isfinite(genes).all(axis=1).sum() > 10
    assert not WRITTEN & set(model.adata.obsm)
    with pytest.warns(UserWarning, match="left out"):
        expected = model.get_latent_representation(other, scale="cell")
    np.testing.assert_array_equal(other.obsm["X_stjepa_cell"], expected)


def test_what_is_read_and_where_it_is_written_can_be_chosen(make_tissue, make_model):
    adata = make_tissue()
    model = make_model(adata)
    for use_rep in ("X", "X_stjepa_cell", ["X", "X_stjepa"]):
        model.niches(n_niches=2, use_rep=use_rep, key_added="domain", align="center", random_state=1)
        note = adata.uns["scjepa"]["X_stjepa_niche"]
        assert list(note["use_rep"]) == ([use_rep] if isinstance(use_rep, str) else use_rep)
        assert "align 'center'" in note["chosen"]
        assert adata.obs["domain"].nunique() == 2
    scjepa.tl.find_niches(adata, model, n_niches=2, key_added="again", use_rep="X", align="center", random_state=1)
    model.niches(n_niches=2, key_added="domain", use_rep="X", align="center", random_state=1)
    assert adata.obs["again"].tolist() == adata.obs["domain"].tolist()


def test_cells_without_tokens_are_told_at_each_scale(make_tissue, make_model):
    adata = make_tissue()
    adata.X = adata.X.toarray()
    adata.X[5] = 0
    model = make_model(adata)
    with pytest.warns(UserWarning, match="1 cells have no token at the cell scale and get a zero embedding"):
        model.niches(n_niches=2)
    assert not adata.obsm["X_stjepa_cell"][5].any()
    assert np.isfinite(adata.obsm["X_stjepa_niche"]).all()


def test_what_cannot_be_is_told_before_the_encoder_runs(make_tissue, make_model, passes):
    adata = make_tissue()
    model = make_model(adata)
    adata.obs["mine"] = "a"
    for arguments, error, match in (
        ({"n_niches": 0}, ValueError, "n_niches must lie between 1"),
        ({"n_niches": "2"}, TypeError, "n_niches must be a whole number"),
        ({"key_added": "mine"}, ValueError, "adata.obs already has 'mine'"),
        ({"align": "centre"}, ValueError, "Unknown align 'centre'"),
        ({"use_rep": "X_pca"}, KeyError, "X_pca"),
        ({"use_rep": []}, ValueError, "use_rep names nothing"),
        ({"encoder": "student"}, ValueError, "encoder must be"),
        ({"batch_size": 0}, ValueError, "batch_size must be"),
        ({"adata": [adata]}, TypeError, "Several AnnData objects become one"),
    ):
        with pytest.raises(error, match=match):
            model.niches(**arguments)
    adata.obsm["X_stjepa_niche"] = np.zeros((adata.n_obs, 2))
    with pytest.raises(ValueError, match=r"adata.obsm already has 'X_stjepa_niche'"):
        model.niches()
    assert not passes
    assert set(adata.obsm) == {"spatial", "X_stjepa_niche"}
