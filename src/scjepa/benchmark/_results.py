"""What a benchmark gives back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from scjepa.benchmark._files import write_figures, write_texts
from scjepa.benchmark._markdown import table_1_markdown, table_2_markdown
from scjepa.benchmark._occupancy import occupancy
from scjepa.benchmark._scoring import ALL
from scjepa.benchmark._store import Store
from scjepa.benchmark._summary import failures, table_1, table_2, verdicts_of
from scjepa.benchmark._tasks import Task

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass
class BenchmarkResults:
    """Scores of methods on tasks, as rows, as tables, and as figures.

    Attributes
    ----------
    rows
        Tidy results, a row for each value: ``data``, ``task``, ``method``, ``settings``, ``configuration``, ``seed``,
        ``readout``, ``group`` (technology, or ``"all"``), ``n_cells``, ``leiden_seed``, ``resolution``, ``metric``,
        ``value``, ``seconds``, ``cpu_seconds``, ``peak_gib`` and ``reason`` (why there is no value).
    runs
        A row for each run: what it took, versions of packages, what the method did, and why it failed.
    """

    rows: pd.DataFrame
    runs: pd.DataFrame
    _store: Store = field(repr=False)
    _tasks: Sequence[Task] = field(repr=False)

    def table_1(self) -> pd.DataFrame:
        """Return methods × metrics for each data set and technology, and weighted by cells."""
        return table_1(self.rows)

    def table_2(self) -> pd.DataFrame:
        """Return the ablation, a row for each level of each axis; empty where there was none."""
        return table_2(self.rows, self._store.levels, self._occupancy(), verdicts_of(self.runs))

    def failures(self) -> pd.DataFrame:
        """Return what could not be measured, and why."""
        return failures(self.rows)

    def markdown(self) -> str:
        """Return Table 1 as text."""
        return table_1_markdown(self.table_1(), self.runs)

    def figures(self) -> dict[str, Figure]:
        """Return every figure that the results allow, by name."""
        from scjepa.benchmark._figures import every_figure

        return every_figure(self._tasks, self._store, self.rows)

    def embedding(self, method: str, data: str, *, readout: str = "plain", **key: object) -> np.ndarray:
        """Return what was clustered of a method, ``(n_cells, n_dims)``.

        Parameters
        ----------
        method, data
            As in the columns.
        readout
            One of the scoring's, such as ``"plain"``.
        **key
            ``task``, ``settings``, ``configuration``, ``seed``: the first there is, where they are not given.

        Raises
        ------
        KeyError
            If there is no such run, or it gave no such embedding.
        """
        wanted = {"method": method, "data": data, **key}
        for found in self._store.keys:
            if all(getattr(found, name) == value for name, value in wanted.items()):
                arrays = self._store.arrays(found)
                if f"embedding_{readout}" in arrays:
                    return arrays[f"embedding_{readout}"]
        raise KeyError(
            f"There is no embedding {readout!r} of {wanted}; runs: {sorted({k.method for k in self._store.keys})}."
        )

    def write(self, folder: str | Path) -> list[Path]:
        """Write tidy results and tables to a folder, each whole or not at all.

        In the folder of the runs they are of all that are finished there, those of other processes too.

        Returns
        -------
        list of pathlib.Path
            ``results.csv``, ``runs.csv``, ``table1.csv``, ``table1.md``, and ``table2.csv`` and ``table2.md`` where
            there is an ablation.
        """
        if not self._store.holds(folder):
            return write_texts(folder, self._texts())
        with self._store.alone():  # else tables of fewer runs may come after those of more
            self._store.reread()
            self.rows, self.runs = self._store.rows(), self._store.runs()
            return write_texts(folder, self._texts())

    def _texts(self) -> dict[str, str]:
        one, two = self.table_1(), self.table_2()
        texts = {
            "results.csv": self.rows.to_csv(index=False, float_format="%.5g"),
            "runs.csv": self.runs.to_csv(index=False, float_format="%.5g"),
            "table1.csv": one.to_csv(index=False, float_format="%.6g"),
            "table1.md": table_1_markdown(one, self.runs),
        }
        if len(two):
            texts.update(
                {
                    "table2.csv": two.to_csv(index=False, float_format="%.6g"),
                    "table2.md": table_2_markdown(two, self.runs),
                }
            )
        return texts

    def write_figures(self, folder: str | Path) -> list[Path]:
        """Write every figure as PNG to a folder."""
        return write_figures(folder, self.figures())

    def _occupancy(self) -> pd.DataFrame | None:
        lengths = [int(level.value) for level in self._store.levels if level.axis == "tokens.n_tokens"]
        if not lengths:
            return None
        parts = []
        for task in self._tasks:
            own = occupancy(task.adata.X, task.technologies, lengths=lengths)
            if own["group"].nunique() > 1:
                own = pd.concat([own, occupancy(task.adata.X, lengths=lengths).assign(group=ALL)])
            parts.append(own.assign(data=task.data))
        return pd.concat(parts, ignore_index=True).drop_duplicates(["data", "group", "n_tokens"])
