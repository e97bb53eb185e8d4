from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import scjepa

SOURCE = Path(scjepa.__file__).parent
HEAVY = ("scvi", "scanpy", "squidpy", "anndata", "pandas", "jax", "matplotlib")

# From the top of the house to its ground: a floor imports only from floors below it.
FLOORS = [
    "cli",
    "benchmark",
    "stjepa",
    "celljepa",
    "models",
    "pretrained",
    "perturbation",
    "training",
    "pl",
    "tl",
    "metrics",
    "datasets",
    "tokens",
    "nn",
]
LOWEST = {"_core"}
SIDE_BY_SIDE = {("tl", "metrics"), ("metrics", "tl")}
"""``metrics`` clusters with the graph of ``tl``; neither imports a model."""
NEIGHBORS = {"stjepa", "celljepa"}
"""The two models: neither imports the other, and no shared floor imports one of them."""


def _floor(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def _imports(path: Path) -> set[str]:
    """Return the floors of scjepa that a file imports, wherever in the file."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names = [node.module] if node.module != "scjepa" else [f"scjepa.{a.name}" for a in node.names]
        found |= {n.split(".")[1] for n in names if n.startswith("scjepa.") and n.split(".")[1] != "__version__"}
    return found


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda p: str(p.relative_to(SOURCE)))
def test_a_floor_imports_only_from_floors_below(path):
    own = _floor(path)
    if own in ("__init__", *LOWEST):
        return
    if own in NEIGHBORS:
        assert not (_imports(path) & NEIGHBORS) - {own}, f"{path}: one model imports the other"
    for other in _imports(path) - {own} - LOWEST:
        assert other in FLOORS, f"{path} imports {other}"
        below = FLOORS.index(other) > FLOORS.index(own)
        assert below or (own, other) in SIDE_BY_SIDE, f"{path}: {own} imports {other}, which is above it"


@pytest.mark.parametrize("module", ["scjepa", "scjepa.nn", "scjepa.tokens", "scjepa.training"])
def test_light_floors_load_nothing_heavy(module):
    code = f"import {module}, sys; print([m for m in {HEAVY!r} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    allowed = "['matplotlib']" if module == "scjepa.training" else "[]"  # lightning may load it
    assert out.strip() in ("[]", allowed)


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda p: str(p.relative_to(SOURCE)))
def test_nothing_private_of_another_package_is_imported(path):
    names = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    others = [name.split(".") for name in names if name.split(".")[0] not in ("scjepa", "__future__")]
    assert [".".join(parts) for parts in others if any(part.startswith("_") for part in parts)] == []


def test_private_names_of_other_packages_that_are_used_exist():
    """Each is asked for where nothing public does the same; a version without it fails here first, by name."""
    from anndata import AnnData
    from scvi.model.base import BaseModelClass

    for name in ("_get_setup_method_args", "_get_init_params", "_validate_anndata"):  # what scvi-tools' guide names
        assert callable(getattr(BaseModelClass, name))
    whole = AnnData(shape=(3, 2))
    assert whole[:2]._adata_ref is whole  # of models/setups.py


def test_every_public_name_exists_and_is_documented():
    for name in scjepa.__all__:
        thing = getattr(scjepa, name)
        assert name in dir(scjepa)
        if callable(thing) or type(thing).__name__ == "module":
            assert thing.__doc__
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = scjepa.nothing


def test_files_stay_small():
    sizes = {p.relative_to(SOURCE): len(p.read_text().splitlines()) for p in SOURCE.rglob("*.py")}
    assert {p: n for p, n in sizes.items() if n > 800} == {}


def test_user_errors_are_never_asserts():
    for path in SOURCE.rglob("*.py"):
        asserts = [n.lineno for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Assert)]
        assert not asserts, f"{path}: {asserts}"
