"""One run: a method on a task with a seed, and its scores."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from scjepa.benchmark._plan import Entry
from scjepa.benchmark._scoring import Scored, Scoring, score, scored_with
from scjepa.benchmark._store import Run, RunKey
from scjepa.benchmark._tasks import Task
from scjepa.benchmark.methods import MethodResult
from scjepa.benchmark.methods._cache import source_digest
from scjepa.benchmark.methods._process import find_python
from scjepa.benchmark.methods._run import outcome


def key_of(task: Task, entry: Entry, seed: int) -> RunKey:
    """Return what a run is called."""
    return RunKey(task.data, task.kind, entry.name, entry.settings, entry.configuration, seed)


def execute(task: Task, entry: Entry, seed: int, scoring: Scoring, timeout: float | None = None) -> Run:
    """Run a method on a task and score what it gives; what fails is a reason, never an error.

    A method that can embed by chosen genes is given all of them and embeds by those that all technologies measured;
    others are given the shared genes alone. A method that makes clusters at resolutions is given the scoring's, and the
    number of labels to find a further one for.
    """
    result = _result(task, entry, seed, scoring, timeout)
    scored = Scored()
    if result.ok:
        columns: list[float | None] = list(scoring.resolutions) if entry.takes_resolution else []
        if task.n_labels or not columns:
            columns.append(None)
        try:
            scored = score(task, result, scoring, columns)
        except Exception as error:  # noqa: BLE001 - nor may what one method gives stop the scores of the others
            result = replace(result, error=f"It could not be scored. {type(error).__name__}: {error}")
    if not result.ok:
        scored = Scored(rows=[{"reason": result.error}])
    else:
        took = {"seconds": result.seconds, "cpu_seconds": result.cpu_seconds, "peak_gib": result.peak_gib}
        scored.rows = [{**row, **took} for row in scored.rows]
    return Run(key_of(task, entry, seed), _about(entry, result, scored), scored.rows, _arrays(scored))


def _result(task: Task, entry: Entry, seed: int, scoring: Scoring, timeout: float | None) -> MethodResult:
    method, options = entry.method, dict(entry.options)
    empty = MethodResult(entry.name, entry.settings, seed)
    missing = [option for option in method.required if options.get(option) is None]
    if missing:
        return MethodResult(entry.name, entry.settings, seed, error=f"It needs {method.needs}.")
    wide = task.shared is not None and "genes" in method.options
    if wide:
        options["genes"] = list(task.shared or ())
    elif entry.settings == "own" and "genes" in method.options:
        options["genes"] = list(task.adata.var_names)
    if entry.takes_resolution:
        options.update(resolutions=list(scoring.resolutions), min_share=scoring.min_share)
    arguments: dict[str, Any] = {"seed": seed, "n_niches": task.n_labels or None, **method.fixed, **options}
    given = (task.adata if wide else task.narrow).copy()  # methods write to what they are given
    return outcome(method, empty, given, arguments, None if method.in_session else find_python(), timeout)


def _about(entry: Entry, result: MethodResult, scored: Scored) -> dict[str, Any]:
    return {
        "seconds": float(result.seconds),
        "cpu_seconds": float(result.cpu_seconds),
        "peak_gib": float(result.peak_gib),
        "reason": result.error,
        "versions": " ".join(f"{name}={version}" for name, version in {**result.versions, **scored_with()}.items()),
        "info": {**result.info, **{f"readout.{name}": chosen for name, chosen in scored.chosen.items()}},
        "code": entry.code or source_digest()[:8],
    }


def _arrays(scored: Scored) -> dict[str, np.ndarray]:
    embeddings = {f"embedding_{name}": values for name, values in scored.embeddings.items()}
    clusters = {f"clusters_{name}": np.asarray(values).astype(str) for name, values in scored.clusters.items()}
    return {**embeddings, **clusters}
