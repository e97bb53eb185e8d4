"""Benchmarks: methods and controls through one call, and tables of scores."""

from __future__ import annotations

from scjepa.benchmark._controls import neighborhood_pca, section_zscored_pca
from scjepa.benchmark._table import score_table
from scjepa.benchmark.methods import METHODS, Method, MethodResult, run_method

__all__ = [
    "METHODS",
    "Method",
    "MethodResult",
    "neighborhood_pca",
    "run_method",
    "score_table",
    "section_zscored_pca",
]
