"""Benchmarks: methods and controls through one call, and tables of scores."""

from __future__ import annotations

from scjepa.benchmark._controls import neighborhood_pca, section_zscored_pca
from scjepa.benchmark._perturbation_baselines import PERTURBATION_BASELINES, predict_baselines
from scjepa.benchmark._table import score_table
from scjepa.benchmark.methods import METHODS, Method, MethodResult, run_method

__all__ = [
    "METHODS",
    "PERTURBATION_BASELINES",
    "Method",
    "MethodResult",
    "neighborhood_pca",
    "predict_baselines",
    "run_method",
    "score_table",
    "section_zscored_pca",
]
