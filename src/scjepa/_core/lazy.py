"""Packages whose public names load the modules that hold them on first use."""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from scjepa._core.renamed import no_attribute


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
