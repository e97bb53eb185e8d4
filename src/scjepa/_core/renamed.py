"""Names of packages: loaded when they are asked for, and told the new one where they moved or changed."""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Callable
from functools import wraps
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import FunctionType
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

_TOLD = "_refuses_unknown_keywords"
"""Mark of functions that do."""

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
    """Refuse keywords that a function does not have, with the one that is meant.

    Parameters
    ----------
    names
        What to pass instead, by the old keyword. Others are found by meaning and by spelling.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        """Return the function, with a word for each keyword that it does not have."""
        parameters = inspect.signature(function).parameters.values()
        known = [each.name for each in parameters if each.name not in ("self", "cls")]
        takes_any = any(each.kind is each.VAR_KEYWORD for each in parameters)

        @wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            for word in kwargs:
                if word in names:
                    raise TypeError(f"{function.__name__}() has no argument {word!r}: it is called {names[word]}.")
                if word not in known and not takes_any:
                    from scjepa._core.options import unknown_name

                    raise TypeError(unknown_name(f"argument of {function.__name__}()", word, known))
            return function(*args, **kwargs)

        setattr(call, _TOLD, True)
        return call

    return decorate


def told(thing: T) -> T:
    """Return a function that refuses keywords which it does not have with the one that is meant; else the thing."""
    if not isinstance(thing, FunctionType) or hasattr(thing, _TOLD):
        return thing
    return renamed()(thing)  # type: ignore[return-value]


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
        home = import_module(home_of[name])
        found = told(getattr(home, name))
        if getattr(found, "__module__", None) == home.__name__:
            setattr(home, name, found)  # pickle looks there for it
        setattr(sys.modules[package], name, found)
        return found

    return get, lambda: sorted(home_of), sorted(home_of)
