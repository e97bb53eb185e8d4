"""Methods of a comparison: ST-JEPA, the controls and the peers, all through one call."""

from __future__ import annotations

from scjepa.benchmark.methods._registry import METHODS, Method
from scjepa.benchmark.methods._result import MethodResult
from scjepa.benchmark.methods._run import run_method

__all__ = ["METHODS", "Method", "MethodResult", "run_method"]
