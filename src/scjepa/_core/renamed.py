"""Names of packages: loaded when they are asked for, and told the new one where they moved or changed."""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable
from functools import wraps
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

_HOMES = ("scjepa.config", "scjepa.stjepa", "scjepa.celljepa")
"""Packages that names of other packages moved to, under the names that they had."""

_RENAMED = {
    "scjepa.nn.SpatialJEPA": "scjepa.stjepa.STJEPAModule",
    "scjepa.nn.CellTowers": "scjepa.celljepa.CellJEPAModule",
    "scjepa.nn.ModuleTowers": "scjepa.celljepa.GeneModuleJEPAModule",
    "scjepa.nn.PerturbationTowers": "scjepa.celljepa.PerturbationJEPAModule",
    "scjepa.nn.Towers": "scjepa.nn.JEPAModule",
    "scjepa.tl.aggregate_neighbors": "scjepa.tl.aggregate(array, connectivities=...)",
    "scjepa.tl.readout": "scjepa.tl.standardize(array, groups=...)",
    "scjepa.metrics.weighted_scores": "scjepa.metrics.clustering_scores(..., groups=..., weighted=True)",
    "scjepa.datasets.iter_simulated_tissue": "scjepa.datasets.simulated_tissue",
    "scjepa.benchmark.predict_baselines": "scjepa.perturbation.predict_baselines",
}


def no_attribute(module: str, name: str) -> AttributeError:
    """Return the error of a package that has no such name, with the name that took its place."""
    message = f"module {module!r} has no attribute {name!r}"
    new = _RENAMED.get(f"{module}.{name}")
    # Python asks for a submodule as for an attribute first, before it imports it.
    if new is None and not name.startswith("_") and find_spec(f"{module}.{name}") is None:
        homes = (home for home in _HOMES if home != module and name in import_module(home).__all__)
        new = next((f"{home}.{name}" for home in homes), None)
    return AttributeError(message if new is None else f"{message}: it is {new}")


def renamed(**names: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Refuse old keywords of a function with what took their place.

    Parameters
    ----------
    names
        What to pass instead, by the old keyword.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            for old in names.keys() & kwargs.keys():
                raise TypeError(f"{function.__name__}() has no argument {old!r}: it is called {names[old]}.")
            return function(*args, **kwargs)

        return call

    return decorate


def lazy(package: str, file: str) -> tuple[Callable[[str], object], Callable[[], list[str]], list[str]]:
    """Return the ``__getattr__``, the ``__dir__`` and the ``__all__`` of a package.

    What its ``__init__.py`` imports for type checkers, ``if TYPE_CHECKING``, is what it has: so each name is written
    once, and nothing is imported before it is asked for.

    Parameters
    ----------
    package, file
        Its ``__name__`` and its ``__file__``.
    """
    blocks = [node for node in ast.parse(Path(file).read_text()).body if isinstance(node, ast.If)]
    imports = [node for block in blocks for node in block.body if isinstance(node, ast.ImportFrom)]
    home_of = {alias.name: str(node.module) for node in imports for alias in node.names}

    def get(name: str) -> object:
        if name not in home_of:
            raise no_attribute(package, name)
        found = getattr(import_module(home_of[name]), name)
        setattr(sys.modules[package], name, found)
        return found

    return get, lambda: sorted(home_of), sorted(home_of)
