"""What a comparison of cells gives back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from scjepa.benchmark._files import write_figures, write_texts
from scjepa.benchmark._store import RunKey, Store
from scjepa.benchmark.cells._data import TargetCells
from scjepa.benchmark.cells._markdown import markdown
from scjepa.benchmark.cells._methods import BATCHES, ZERO_SHOT, place_of
from scjepa.benchmark.cells._scoring import CellScoring
from scjepa.benchmark.cells._summary import differences, shown, table

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass
class CellBenchmarkResults:
    """Scores of embeddings of cells, as rows, as a table, and as figures.

    Attributes
    ----------
    rows
        Tidy results, a row for each value: ``data``, ``task``, ``method``, ``settings``, ``configuration``, ``seed``,
        ``readout``, ``group`` (share of molecules, stage of fine-tuning, or ``"all"``), ``n_cells``, ``metric``,
        ``value``, ``seconds``, ``cpu_seconds``, ``peak_gib`` and ``reason`` (why there is no value); the other columns
        of :class:`~scjepa.benchmark.BenchmarkResults` are empty.
    runs
        A row for each run: what it took, and why it failed.
    """

    rows: pd.DataFrame
    runs: pd.DataFrame
    _store: Store = field(repr=False)
    _target: TargetCells = field(repr=False)
    _scoring: CellScoring = field(repr=False)
    _planned: Sequence[RunKey] = field(repr=False)

    def table(self) -> pd.DataFrame:
        """Return methods × scores for each task, means over seeds.

        Of a method that the folder holds in several configurations, it has the one of the last call.

        Returns
        -------
        pandas.DataFrame
            ``data``, ``task``, ``method``, ``settings``, ``configuration``, ``readout``, ``group``, ``n_cells``, each
            score with ``_std_seeds``, ``seconds``, ``cpu_seconds``, ``peak_gib``, ``seeds`` and ``reason``.
        """
        return table(self._shown())

    def differences(self, confidence: float = 0.95) -> pd.DataFrame:
        """Return Cell-JEPA - reconstruction only, Cell-JEPA - untrained, and modules - untrained, paired by seed.

        Parameters
        ----------
        confidence
            Of the intervals.

        Returns
        -------
        pandas.DataFrame
            ``first``, ``second``, ``data``, ``task``, ``readout``, ``group``, ``metric``, ``difference``, ``low`` and
            ``high`` (Student's t over seeds; NaN where there is one seed), ``seeds``.
        """
        return differences(self._shown(), confidence)

    def markdown(self) -> str:
        """Return the table and the differences as text."""
        return markdown(self.table(), self.differences(), self._scoring, self.runs)

    def figures(self) -> dict[str, Figure]:
        """Return every figure that the results allow, by name: ``umap``, ``umap_batches``, ``avg_bio``, ``dropout``."""
        from scjepa.benchmark.cells._figures import every_figure

        return every_figure(self._target, self._shown(), self.embeddings(), self.embeddings(BATCHES))

    def embeddings(self, task: str = ZERO_SHOT) -> dict[tuple[str, str], np.ndarray]:
        """Return embeddings of the target by method and read-out, of each method's first seed there.

        Parameters
        ----------
        task
            ``"zero_shot"`` or ``"batches"``, in which scVI is told batches.
        """
        kept = set(self._shown()["configuration"])
        found: dict[tuple[str, str], np.ndarray] = {}
        for key in sorted(self._store.keys, key=lambda key: key.seed):
            if key.task == task and key.configuration in kept:
                for name, values in self._store.arrays(key).items():
                    found.setdefault((key.method, name.removeprefix("embedding_")), values)
        return dict(sorted(found.items(), key=lambda item: place_of(item[0][0])))

    def write(self, folder: str | Path) -> list[Path]:
        """Write tidy results and tables to a folder, each whole or not at all.

        Returns
        -------
        list of pathlib.Path
            ``results.csv``, ``runs.csv``, ``table.csv``, ``differences.csv`` and ``table.md``.
        """
        texts = {
            "results.csv": self.rows.to_csv(index=False, float_format="%.5g"),
            "runs.csv": self.runs.to_csv(index=False, float_format="%.5g"),
            "table.csv": self.table().to_csv(index=False, float_format="%.4f"),
            "differences.csv": self.differences().to_csv(index=False, float_format="%.4f"),
            "table.md": self.markdown(),
        }
        return write_texts(folder, texts)

    def write_figures(self, folder: str | Path) -> list[Path]:
        """Write every figure as PNG to a folder."""
        return write_figures(folder, self.figures())

    def _shown(self) -> pd.DataFrame:
        return shown(self.rows, self._planned)
