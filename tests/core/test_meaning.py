"""What a user calls an argument by habit, from other packages, and the name that it has here."""

from __future__ import annotations

import inspect
import pickle

import anndata as ad
import numpy as np
import pytest

import scjepa
from scjepa._core.meaning import nearest
from scjepa._core.renamed import renamed
from scjepa.config import STJEPAConfig


@pytest.fixture
def adata() -> ad.AnnData:
    return ad.AnnData(np.ones((3, 2), dtype=np.float32))


@pytest.mark.parametrize(
    ("word", "meant"),
    [(word, "library_key") for word in ("batch", "batch_key", "sample", "slide", "section", "library")]
    + [("n_epochs", "max_epochs"), ("epochs", "max_epochs"), ("n_clusters", "n_niches"), ("seed", "random_state")],
)
def test_a_word_of_the_same_meaning_is_found(word, meant):
    assert nearest(word, ["technology_key", meant, "spatial_key", "min_epochs"]) == meant


def test_spelling_is_asked_where_no_word_means_it():
    assert nearest("spatail_key", ["spatial_key", "library_key"]) == "spatial_key"
    assert nearest("--n-clusters", ["--n-niches", "--out"]) == "--n-niches"
    assert nearest("nothing of the kind", ["spatial_key"]) is None


CALLS = {
    "setup, batch": (lambda a: scjepa.STJEPA.setup_anndata(a, batch_key="b"), "'library_key'"),
    "setup, sample": (lambda a: scjepa.STJEPA.setup_anndata(a, sample_key="b"), "'library_key'"),
    "cells, label": (lambda a: scjepa.CellJEPA.setup_anndata(a, label_key="b"), "'labels_key'"),
    "latent": (lambda a: scjepa.STJEPA(a, n_latent=10), r"encoder=\{'width': ...\}"),
    "state": (lambda a: scjepa.STJEPA(a, random_state=1), "'seed'"),
    "niches of a model": (lambda a: scjepa.STJEPA.niches(None, n_clusters=3), "'n_niches'"),
    "niches": (lambda a: scjepa.tl.niches(a, n_clusters=3), "'n_niches'"),
    "seed": (lambda a: scjepa.tl.niches(a, seed=3), "'random_state'"),
    "groupby": (lambda a: scjepa.tl.niche_markers(a, groupby="leiden"), "'niche_key'"),
    "cluster_key": (lambda a: scjepa.pl.interactions(a, cluster_key="leiden"), "'niche_key'"),
    "color": (lambda a: scjepa.pl.composition(a, color="leiden"), "'niche_key'"),
    "figure": (lambda a: scjepa.pl.niches(a, cmap="tab10"), "'palette'"),
    "basis": (lambda a: scjepa.pl.embedding(a, basis="X_umap"), "'use_rep'"),
}


@pytest.mark.parametrize("name", CALLS)
def test_an_argument_of_another_name_is_refused_with_its_own(adata, name):
    call, meant = CALLS[name]
    with pytest.raises(TypeError, match=f"Did you mean {meant}"):
        call(adata)


def test_the_width_of_an_encoder():
    with pytest.raises(ValueError, match="Did you mean 'width'"):
        STJEPAConfig().changed({"encoder": {"n_latent": 3}})


def test_functions_stay_what_they_are():
    assert pickle.loads(pickle.dumps(scjepa.tl.niches)) is scjepa.tl.niches
    assert next(iter(inspect.signature(scjepa.tl.niches).parameters)) == "adata"
    assert "Parameters" in scjepa.pl.niches.__doc__
    with pytest.raises(TypeError, match="missing 1 required positional argument"):
        scjepa.tl.niches()


def test_old_names_and_functions_that_take_any_keyword():
    @renamed(old="new=")
    def call(new=0, **others):
        return new, others

    assert call(1, more=2) == (1, {"more": 2})
    with pytest.raises(TypeError, match="no argument 'old': it is called new="):
        call(old=1)
