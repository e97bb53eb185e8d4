from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scjepa.datasets import DIFFICULTIES, TechnologySpec, simulated_tissue
from scjepa.datasets._simulate import block_size

QUIET = replace(
    DIFFICULTIES["easy"],
    batch_effect=0.0,
    technology_effect=0.0,
    gradient=0.0,
    background=0.0,
    depth_spread=0.0,
    capture=1.0,
)


def group_means(adata, *keys):
    """Mean counts of each group of cells, and the groups."""
    groups = adata.obs.groupby(list(keys), observed=True).indices
    return {key: np.asarray(adata.X[rows].mean(axis=0)).ravel() for key, rows in groups.items()}


@pytest.fixture(scope="module")
def quiet():
    return simulated_tissue(8000, n_sections=1, n_niches=3, n_cell_types=3, n_genes=60, difficulty=QUIET)


def test_niche_genes_depend_on_niche_within_a_type(quiet):
    """The fold change between two niches in one type is the planted one, in types that respond and in none else."""
    means = group_means(quiet, "cell_type", "region")
    checked = 0
    for gene in np.flatnonzero(quiet.var["role"] == "niche"):
        effect, response = quiet.varm["niche_effect"][gene], quiet.varm["niche_response"][gene]
        high, low = effect.argmax(), effect.argmin()
        for cell_type in range(3):
            ours = [means[f"type_{cell_type + 1}", f"niche_{niche + 1}"][gene] for niche in (high, low)]
            if min(ours) > 1:
                planted = response[cell_type] * (effect[high] - effect[low])
                assert np.log(ours[0] / ours[1]) == pytest.approx(planted, abs=0.35)
                checked += 1
    assert checked > 10
    assert set(np.unique(quiet.varm["niche_response"])) == {0.0, 1.0}


def test_other_genes_do_not_depend_on_niche(quiet):
    means = group_means(quiet, "cell_type", "region")
    for gene in np.flatnonzero(quiet.var["role"] == "housekeeping"):
        ours = np.array([mean[gene] for mean in means.values()])
        if ours.min() > 1:
            assert np.ptp(np.log(ours)) < 0.35
    assert not quiet.varm["niche_effect"][quiet.var["role"] != "niche"].any()
    assert not quiet.varm["type_effect"][quiet.var["role"] == "housekeeping"].any()


def test_opposed_types_answer_in_reverse():
    adata = simulated_tissue(200, n_genes=400, difficulty=replace(QUIET, opposed=0.5))
    response = adata.varm["niche_response"][adata.var["role"] == "niche"]
    assert (response == -1).mean() == pytest.approx((response == 1).mean(), abs=0.05)


def test_counts_are_negative_binomial(quiet):
    counts = quiet.X.toarray().astype(float)
    ratios = []
    for rows in quiet.obs.groupby(["cell_type", "region"], observed=True).indices.values():
        mean, variance = counts[rows].mean(axis=0), counts[rows].var(axis=0)
        ratios.append(((variance - mean) / mean**2)[mean > 3])
    assert np.median(np.concatenate(ratios)) == pytest.approx(QUIET.dispersion, abs=0.03)
    poisson = simulated_tissue(4000, n_cell_types=1, n_niches=1, n_genes=20, difficulty=replace(QUIET, dispersion=0.0))
    counts = poisson.X.toarray().astype(float)
    np.testing.assert_allclose(counts.var(axis=0) / counts.mean(axis=0), 1, atol=0.12)


def test_capture_scales_counts_and_background_brings_foreign_genes():
    technologies = [TechnologySpec("A"), TechnologySpec("B", capture=0.25), TechnologySpec("C", background=0.5)]
    adata = simulated_tissue(6000, n_cell_types=4, technologies=technologies, difficulty=QUIET)
    totals = adata.obs.assign(total=np.asarray(adata.X.sum(axis=1)).ravel()).groupby("technology", observed=True)[
        "total"
    ]
    means = totals.mean()
    assert means["A"] == pytest.approx(2 * 200, rel=0.25)
    assert means["B"] == pytest.approx(means["A"] / 4, rel=0.15)
    marker = int(np.flatnonzero((adata.varm["type_effect"] > 1).sum(axis=1) == 1)[0])
    profile = group_means(adata, "technology", "cell_type")
    own = f"type_{adata.varm['type_effect'][marker].argmax() + 1}"
    other = next(t for t in adata.obs["cell_type"].cat.categories if t != own)
    contrast = {t: profile[t, own][marker] / profile[t, other][marker] for t in ("A", "C")}
    assert contrast["C"] < 0.75 * contrast["A"]


def test_dispersion_is_the_technologys_own():
    technologies = [TechnologySpec("A", dispersion=0.0), TechnologySpec("B", dispersion=1.0)]
    adata = simulated_tissue(
        4000, n_sections=2, n_cell_types=1, n_niches=1, n_genes=30, technologies=technologies, difficulty=QUIET
    )
    spread = {}
    for name, rows in adata.obs.groupby("technology", observed=True).indices.items():
        counts = adata.X[rows].toarray().astype(float)
        spread[name] = np.median((counts.var(axis=0) - counts.mean(axis=0)) / counts.mean(axis=0) ** 2)
    assert spread["A"] == pytest.approx(0, abs=0.05)
    assert spread["B"] == pytest.approx(1, abs=0.25)


def log_ratio_of_sections(adata, first, second):
    means = group_means(adata, "section")
    a, b = means[f"section_{first}"], means[f"section_{second}"]
    return np.log(a[(a > 0.5) & (b > 0.5)] / b[(a > 0.5) & (b > 0.5)])


def test_batch_and_technology_effects_multiply_genes():
    one_kind = {"n_sections": 4, "n_niches": 1, "n_cell_types": 1, "n_genes": 300, "technologies": ("A", "B")}
    none = simulated_tissue(4000, **one_kind, difficulty=QUIET)
    batch = simulated_tissue(4000, **one_kind, difficulty=replace(QUIET, batch_effect=0.5))
    technology = simulated_tissue(4000, **one_kind, difficulty=replace(QUIET, technology_effect=0.5))
    assert log_ratio_of_sections(none, 1, 3).std() < 0.1
    assert log_ratio_of_sections(batch, 1, 3).std() == pytest.approx(0.5 * np.sqrt(2), abs=0.1)
    assert log_ratio_of_sections(technology, 1, 3).std() < 0.1  # one technology: one multiplier
    assert log_ratio_of_sections(technology, 1, 2).std() == pytest.approx(0.5 * np.sqrt(2), abs=0.1)


def test_gradient_drifts_across_a_section():
    one_kind = {"n_sections": 1, "n_niches": 1, "n_cell_types": 1, "n_genes": 40}
    correlations = {}
    for gradient in (0.0, 0.6):
        adata = simulated_tissue(3000, **one_kind, difficulty=replace(QUIET, gradient=gradient))
        logs, x = np.log1p(adata.X.toarray()), adata.obsm["spatial"]
        near = np.argsort(((x - x[0]) ** 2).sum(axis=1))
        correlations[gradient] = np.abs(logs[near[:300]].mean(axis=0) - logs[near[-300:]].mean(axis=0)).mean()
    assert correlations[0.6] > 4 * correlations[0.0]


@settings(max_examples=20, deadline=None)
@given(overlap=st.floats(0, 1), n_genes=st.integers(10, 80), n_technologies=st.integers(2, 3))
def test_any_overlap_of_panels(overlap, n_genes, n_technologies):
    names = tuple("ABC"[:n_technologies])
    adata = simulated_tissue(90, n_genes=n_genes, technologies=names, panel_overlap=overlap)
    measured = adata.varm["measured"]
    assert tuple(measured.columns) == names
    assert measured.dtypes.eq(bool).all()
    assert measured.any(axis=1).all()
    assert measured.all(axis=1).sum() == round(overlap * n_genes)
    assert measured.sum().max() - measured.sum().min() <= 1


def test_not_measured_is_zero_and_hides_what_would_have_been_counted():
    full = simulated_tissue(300, technologies=("A", "B"), panel_overlap=1.0)
    split = simulated_tissue(300, technologies=("A", "B"), panel_overlap=0.3)
    for name in ("A", "B"):
        rows = (split.obs["technology"] == name).to_numpy()
        seen = split.varm["measured"][name].to_numpy()
        assert split.X[rows][:, ~seen].nnz == 0
        assert (split.X[rows][:, seen] != full.X[rows][:, seen]).nnz == 0
        assert full.X[rows][:, ~seen].nnz > 0


def test_panels_of_names_and_shares():
    technologies = [TechnologySpec("A", genes=["gene_007", "gene_001"]), TechnologySpec("B", genes=0.25)]
    measured = simulated_tissue(90, technologies=technologies).varm["measured"]
    assert list(measured.index[measured["A"]]) == ["gene_001", "gene_007"]
    assert measured["B"].sum() == 50


def test_panel_errors_name_the_gene():
    with pytest.raises(KeyError, match=r"'A': 1 of its genes are not simulated, such as 'Sox9'.*gene_001.*gene_200"):
        simulated_tissue(90, technologies=[TechnologySpec("A", genes=["gene_001", "Sox9"])])
    with pytest.raises(ValueError, match="'A' measures no gene"):
        simulated_tissue(90, technologies=[TechnologySpec("A", genes=0.0)])


def test_block_size_bounds_memory():
    assert block_size(500) * 500 * 8 < 2**24
    assert block_size(10**7) == 64
