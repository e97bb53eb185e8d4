"""Benchmarks: a whole comparison in one call, methods and controls through another, and tables of scores."""

from __future__ import annotations

from scjepa.benchmark._controls import neighborhood_pca, section_zscored_pca
from scjepa.benchmark._occupancy import occupancy
from scjepa.benchmark._perturbation_baselines import PERTURBATION_BASELINES, predict_baselines
from scjepa.benchmark._readouts import READOUTS
from scjepa.benchmark._results import BenchmarkResults
from scjepa.benchmark._run import run
from scjepa.benchmark._scoring import Scoring
from scjepa.benchmark._table import score_table
from scjepa.benchmark.cells import CELL_METHODS, CellBenchmarkResults, CellMethod, CellScoring, CellTraining, run_cells
from scjepa.benchmark.methods import METHODS, Method, MethodResult, run_method

__all__ = [
    "CELL_METHODS",
    "METHODS",
    "PERTURBATION_BASELINES",
    "READOUTS",
    "BenchmarkResults",
    "CellBenchmarkResults",
    "CellMethod",
    "CellScoring",
    "CellTraining",
    "Method",
    "MethodResult",
    "Scoring",
    "neighborhood_pca",
    "occupancy",
    "predict_baselines",
    "run",
    "run_cells",
    "run_method",
    "score_table",
    "section_zscored_pca",
]
