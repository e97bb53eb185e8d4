"""Benchmarks: the controls that stand beside every result, and tables of scores."""

from __future__ import annotations

from scjepa.benchmark._controls import neighborhood_pca
from scjepa.benchmark._table import score_table

__all__ = ["neighborhood_pca", "score_table"]
