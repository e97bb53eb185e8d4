"""The real peers on a tiny tissue, where their environment is there."""

from __future__ import annotations

import os

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse

from scjepa._core.squidpy import spatial_graph
from scjepa.benchmark import METHODS, run_method

FEW = {"max_epochs": 6, "epochs": 3}
"""Novae's schedule of the learning rate cannot do with fewer."""


@pytest.fixture
def peers_python():
    python = os.environ.get("SCJEPA_PEERS_PYTHON")
    if not python:
        pytest.skip("SCJEPA_PEERS_PYTHON is not set; make the environment with benchmarks/peers/setup.sh")
    return python


@pytest.fixture(scope="module")
def _large():
    """Return as many cells and genes as peers that make batches, or choose genes, cannot do without."""
    rng = np.random.default_rng(0)
    n, n_genes = 600, 80
    place = rng.random((n, 2)) * 100
    left = place[:, 0] < 50
    rate = np.geomspace(0.2, 20, n_genes)
    counts = rng.poisson(rng.gamma(2, np.where(left[:, None], rate, rng.permutation(rate)) / 2))
    counts[-1] = 0
    obs = pd.DataFrame(index=[f"c{i}" for i in range(n)])
    obs["section"] = pd.Categorical(np.where(np.arange(n) < n // 2, "s1", "s2"))
    obs["technology"] = pd.Categorical(["T"] * n)
    var = pd.DataFrame(index=[f"Gene{i}" for i in range(n_genes)])
    adata = AnnData(sparse.csr_matrix(counts.astype(np.int32)), obs=obs, var=var, obsm={"spatial": place})
    spatial_graph(adata, n_neighs=5, library_key="section")
    return adata


@pytest.fixture
def large(_large):
    """Return them afresh."""
    return _large.copy()


PEERS = [
    (name, settings)
    for name, method in METHODS.items()
    if not method.in_session and not method.required
    for settings in method.settings
]


@pytest.mark.parametrize(("name", "settings"), PEERS)
def test_a_peer_runs(large, peers_python, name, settings):
    method = METHODS[name]
    options = {key: value for key, value in FEW.items() if key in method.options}
    result = run_method(name, large, settings=settings, n_niches=2, options=options, python=peers_python, timeout=300)
    if name == "squidpy_spatialleiden" and result.error and "spatialleiden" in result.error:
        pytest.skip(f"not installed with the peers: {result.error}")
    assert result.error is None
    if "embedding" in method.gives:
        assert result.embedding.shape[0] == large.n_obs
        assert np.ptp(result.embedding, axis=0).max() > 0
    if "clusters" in method.gives:
        assert len(result.clusters) == large.n_obs
    assert result.seconds > 0
    assert result.peak_gib > 0.1
    assert len(result.versions) > 1


def test_niches_at_several_resolutions_have_a_column_each_and_one_of_the_number_wanted(tissue, peers_python):
    options = {"resolutions": [0.2, 2.0], "min_share": 0.01}
    result = run_method("squidpy_utag", tissue, n_niches=3, options=options, python=peers_python, timeout=300)
    assert result.error is None
    assert result.clusters.shape == (tissue.n_obs, 3)
    numbers = [len(set(column) - {"no counts"}) for column in result.clusters.T]
    assert numbers[0] <= numbers[1]
    assert numbers[2] == 3
    assert result.info["resolutions"] == [0.2, 2.0]
    matched = {"resolution": result.info["matched_resolution"]}
    again = run_method("squidpy_utag", tissue, options=matched, python=peers_python, timeout=300)
    np.testing.assert_array_equal(again.clusters, result.clusters[:, 2])


def test_novae_with_fewer_prototypes_than_niches_gives_what_it_has(large, peers_python):
    options = {"max_epochs": FEW["max_epochs"]}
    result = run_method("novae", large, n_niches=1000, options=options, python=peers_python, timeout=300)
    assert result.error is None
    assert len(set(result.clusters) - {"no domain", "no counts"}) == result.info["prototypes with cells"] < 1000
