"""Where `run.sh` keeps its runs, and the task they were run on."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from scjepa.benchmark.suites.tissue import Task, make_tasks, read_units

CACHE = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser()
KEPT = Path(os.environ.get("SCJEPA_PAPER_OUT", CACHE / "scjepa" / "paper"))


def task_of(files: Mapping[str, str], label: str, kind: str) -> Task:
    """Return files of the data, by their short names, as `scjepa benchmark` takes them."""
    folder = Path(os.environ["SCJEPA_DATA"]) / "spatial"
    units = read_units({name: folder / f"{file}.h5ad" for name, file in files.items()}, label)
    (task,) = make_tasks(units, kind)
    return task
