from __future__ import annotations

import re
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from scjepa.celljepa import CellObjective
from scjepa.config import CellObjectiveConfig
from scjepa.training import diagnose, effective_rank, mean_cosine
from scjepa.training.plan import gene_mean_loss


def test_effective_rank_counts_dimensions():
    generator = torch.Generator().manual_seed(0)
    full = torch.randn(5000, 16, generator=generator)
    assert 15.8 < effective_rank(full) <= 16
    assert abs(effective_rank(full[:, :1] @ torch.ones(1, 16)) - 1) < 1e-2
    assert effective_rank(torch.ones(100, 16)) == 0
    assert effective_rank(torch.zeros(100, 16)) == 0


def test_mean_cosine_equals_all_pairs():
    x = torch.randn(30, 8)
    unit = torch.nn.functional.normalize(x, dim=1)
    gram = unit @ unit.T
    expected = (gram.sum() - gram.diagonal().sum()) / (30 * 29)
    torch.testing.assert_close(mean_cosine(x), expected)
    assert mean_cosine(torch.ones(5, 3)) > 0.999


def test_gene_mean_loss_predicts_from_the_other_fold():
    genes = torch.tensor([0, 0, 1, 1, 2])
    folds = torch.tensor([0, 1, 0, 1, 0])
    targets = torch.tensor([[1.0], [3.0], [5.0], [5.0], [100.0]])
    loss, known = gene_mean_loss(targets, genes, folds, 3)
    assert known.tolist() == [True, True, True, True, False]  # gene 2 is in one fold only
    torch.testing.assert_close(loss, torch.tensor((2 + 2 + 0 + 0) / 4.0))


def test_verdicts():
    healthy = {"effective_rank": [30, 40], "mean_cosine": [0.8, 0.3], "loss_ratio": [2.0, 0.8]}
    assert diagnose(healthy, 64).verdict == "healthy"
    assert diagnose({**healthy, "effective_rank": [30, 4]}, 64).verdict == "collapsed"
    assert diagnose({**healthy, "mean_cosine": [0.8, 0.97]}, 64).verdict == "collapsed"
    assert diagnose({**healthy, "effective_rank": [40, 15]}, 64).verdict == "shrinking"
    assert diagnose({**healthy, "loss_ratio": [2.0, 1.1]}, 64).verdict == "not learning"
    assert diagnose({}, 64).verdict == "untrained"
    text = str(diagnose({**healthy, "effective_rank": [30, 4]}, 64))
    assert "4.0 of 64" in text
    assert "What to try" in text


def test_one_objective_that_is_learned_is_enough():
    run = {"effective_rank": [30, 40], "mean_cosine": [0.8, 0.3], "loss_ratio": [2.0, 1.1]}
    assert diagnose({**run, "cell_ratio": [1.05, 0.7]}, 64).verdict == "healthy"
    assert diagnose({**run, "nearby_ratio": [1.0, 0.9]}, 64).verdict == "healthy"
    flat = {name: [1.05, 1.01] for name in ("cell_ratio", "neighborhood_ratio", "nearby_ratio")}
    told = diagnose({**run, **flat}, 64)
    assert told.verdict == "not learning"
    assert sum(sentence.endswith("no gain yet") for sentence in told.evidence) == 4
    # Where tokens are not predicted, their ratio is not there.
    assert diagnose({"effective_rank": [30, 40], "neighborhood_ratio": [1.0, 0.5]}, 64).verdict == "healthy"
    assert diagnose({"effective_rank": [30, 40], "neighborhood_ratio": [0.5, 1.0]}, 64).verdict == "not learning"


@pytest.mark.parametrize("ratios", [{"loss_ratio": [2.0, 0.8]}, {"views_ratio": [2.0, 0.8]}])
@pytest.mark.parametrize("ranks", [[30, 4], [40, 15]])
def test_advice_for_cells_names_options_that_they_have(ratios, ranks):
    told = diagnose({"effective_rank": ranks, **ratios}, 64, "cells", objective=CellObjective)
    assert told.verdict in ("collapsed", "shrinking")
    options = re.findall(r"'(\w+)': \.\.\.", told.advice[0])
    assert options == ["variance_weight", "covariance_weight"]
    assert all(hasattr(CellObjectiveConfig(), option) for option in options)
    assert "sigreg" not in str(told)


@pytest.mark.parametrize("form", [sp.csr_matrix, sp.csr_array, np.asarray])
def test_the_line_that_counts_genes_counts_them(form):
    told = diagnose({"effective_rank": [30, 40], "loss_ratio": [2.0, 1.1]}, 64)
    (line,) = re.findall(r"np\.ravel.*(?= counts the genes)", " ".join(told.advice))
    adata = SimpleNamespace(X=form(np.array([[1, 0, 2], [0, 0, 3]])))
    assert eval(line, {"np": np, "adata": adata}).tolist() == [2, 1]
