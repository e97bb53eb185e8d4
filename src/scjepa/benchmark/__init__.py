"""Benchmarks: a whole comparison in one call, methods and controls through another, and tables of scores.

A comparison is a :class:`Study` of a :class:`Suite`, one of sections (:func:`run`) or of dissociated cells
(:func:`run_cells`). Methods are known by name, and users add their own with :func:`register`.
"""

from __future__ import annotations

from scjepa._core.renamed import no_attribute
from scjepa.benchmark.controls import neighborhood_pca, section_zscored_pca
from scjepa.benchmark.method import Method, MethodResult, register
from scjepa.benchmark.outcome import run_method
from scjepa.benchmark.score import READOUTS, Scoring
from scjepa.benchmark.study import Study, Suite
from scjepa.benchmark.suites.cell_models import CellTraining
from scjepa.benchmark.suites.cell_tasks import CellScoring
from scjepa.benchmark.suites.cells import CELL_METHODS, CellBenchmarkResults, run_cells
from scjepa.benchmark.suites.sections import METHODS, BenchmarkResults, run
from scjepa.benchmark.table import occupancy, score_table

__all__ = [
    "CELL_METHODS",
    "METHODS",
    "READOUTS",
    "BenchmarkResults",
    "CellBenchmarkResults",
    "CellScoring",
    "CellTraining",
    "Method",
    "MethodResult",
    "Scoring",
    "Study",
    "Suite",
    "neighborhood_pca",
    "occupancy",
    "register",
    "run",
    "run_cells",
    "run_method",
    "score_table",
    "section_zscored_pca",
]


def __getattr__(name: str) -> object:
    raise no_attribute(__name__, name)
