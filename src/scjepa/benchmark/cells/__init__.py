"""Comparisons of embeddings of dissociated cells: Cell-JEPA, its controls and other methods on one labelled set."""

from __future__ import annotations

from scjepa.benchmark.cells._methods import CELL_METHODS, CellMethod
from scjepa.benchmark.cells._results import CellBenchmarkResults
from scjepa.benchmark.cells._run import run_cells
from scjepa.benchmark.cells._scoring import CellScoring
from scjepa.benchmark.cells._training import CellTraining

__all__ = ["CELL_METHODS", "CellBenchmarkResults", "CellMethod", "CellScoring", "CellTraining", "run_cells"]
