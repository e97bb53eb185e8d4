"""Where rows of CellJEPA's benchmarks go, and how: as everywhere in ``benchmarks``."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from records import append, commit, done

__all__ = ["RESULTS", "append", "commit", "done"]

RESULTS = Path(__file__).parent / "results"
