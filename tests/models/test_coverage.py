"""How much of a data set a model can read, and what the rest costs."""

from __future__ import annotations

import numpy as np
import pytest

import scjepa

pytestmark = pytest.mark.filterwarnings("ignore:Genes the model does not know")
CPU = {"accelerator": "cpu"}


def part_of(adata, n, **names):
    out = adata[:, sorted(adata.var_names)[:n]].copy()
    out.var_names = [names.get(name, name) for name in out.var_names]
    return out


def test_figures_are_those_of_a_count_by_hand(trained):
    model, adata = trained
    query = part_of(adata, 12, Gene02="New", Gene05="GENE05")
    found = model.coverage(query)
    counts = query.X.toarray()
    matched = np.isin(query.var_names, adata.var_names)
    assert (found.n_matched, found.n_query, found.n_model) == (10, 12, 24)
    assert found.share_of_counts == pytest.approx(counts[:, matched].sum() / counts.sum())
    assert found.tokens_per_cell == np.median(np.minimum((counts[:, matched] > 0).sum(1), 8))
    assert found.n_tokens == 8
    order = sorted(["New", "GENE05"], key=lambda name: -counts[:, query.var_names.get_loc(name)].sum())
    assert list(found.missing) == order
    assert found.case_only == (("GENE05", "Gene05"),)
    assert found.cost is None


def test_all_genes_cover_all(trained):
    model, adata = trained
    found = model.coverage(adata.copy())
    assert found.n_matched == found.n_query == found.n_model == 24
    assert found.share_of_counts == 1
    assert found.missing == ()
    assert "not matched" not in str(found)


def test_cost_grows_with_what_is_missing(trained):
    model, adata = trained
    costs = [model.coverage(part_of(adata, n), cost=True).cost for n in (24, 18, 4)]
    assert costs[0].cosine == pytest.approx(1)
    assert costs[0].cosine_centered == pytest.approx(1)
    assert costs[0].neighbors == 1
    assert [c.n_kept for c in costs] == [24, 18, 4]
    assert costs[0].neighbors > costs[1].neighbors > costs[2].neighbors
    assert costs[1].cosine > costs[2].cosine
    assert costs[1].cosine_centered > costs[2].cosine_centered
    assert costs[2].neighbors_by_chance == pytest.approx(15 / 119)


def test_cost_is_that_of_masking_the_same_genes(trained):
    model, adata = trained
    query = part_of(adata, 10)
    kept = adata[:, np.isin(adata.var_names, query.var_names)].copy()
    a, b = model.get_latent_representation(), model.get_latent_representation(kept)
    cosine = np.sum(a * b, axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    assert model.coverage(query, cost=True).cost.cosine == pytest.approx(np.median(cosine), abs=1e-4)


def test_cost_is_measured_on_a_sample_that_repeats(trained):
    model, adata = trained
    query = part_of(adata, 12)
    one, again, other = (model.coverage(query, cost=True, n_cells=40, seed=s).cost for s in (0, 0, 1))
    assert one == again
    assert one != other
    assert one.n_cells == 40
    assert model.coverage(query, cost=True, scale="cell").cost.scale == "cell"


def test_query_models_count_what_the_reference_was_trained_on(trained):
    model, adata = trained
    query = part_of(adata, 12, Gene02="New")
    for key in [key for key in query.uns if key.startswith("_scvi")]:
        del query.uns[key]
    mine = scjepa.STJEPA.load_query_data(query, model, **CPU)
    assert (mine.coverage().n_matched, mine.coverage().n_model) == (11, 24)
    with pytest.raises(ValueError, match="reference=training_adata"):
        mine.coverage(cost=True)
    cost = mine.coverage(cost=True, reference=adata).cost
    assert cost.n_kept == 11
    assert cost == model.coverage(query, cost=True).cost
    mine.train(max_steps=1, progress_bar=False, **CPU)
    assert (mine.coverage().n_matched, mine.coverage().n_model) == (12, 25)


def test_report_reads_well(trained):
    model, adata = trained
    query = part_of(adata, 12, Gene02="New", Gene05="GENE05")
    text = str(model.coverage(query))
    assert "10 genes matched: 83% of the data's 12, 42% of the model's 24" in text
    assert "GENE05" in text
    assert "cost=True" in text
    with_cost = str(model.coverage(query, cost=True))
    assert "nearest neighbors stay" in with_cost
    assert "with 10 and with all 24 of their genes" in with_cost


def test_no_overlap_and_a_missing_graph_are_refused(trained):
    model, adata = trained
    foreign = adata.copy()
    foreign.var_names = [f"x{i}" for i in range(foreign.n_vars)]
    with pytest.raises(ValueError, match="No gene of"):
        model.coverage(foreign)
    graphless = adata.copy()
    for key in list(graphless.obsp):
        del graphless.obsp[key]
    with pytest.raises(KeyError, match="spatial_neighbors"):
        model.coverage(graphless)
