from __future__ import annotations

import ast
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import scjepa

SOURCE = Path(scjepa.__file__).parent
HEAVY = ("scvi", "scanpy", "squidpy", "anndata", "pandas", "jax", "matplotlib")

# From the top of the house to its ground: a floor imports only from floors below it.
FLOORS = [
    "cli",
    "benchmark",
    "atlas",
    "config",
    "stjepa",
    "celljepa",
    "models",
    "pretrained",
    "perturbation",
    "cohort",
    "training",
    "pl",
    "metrics",
    "tl",
    "datasets",
    "tokens",
    "nn",
]
LOWEST = {"_core"}
NEIGHBORS = {"stjepa", "celljepa"}
"""The two models: neither imports the other, and no shared floor imports one of them."""


def _floor(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def _home_of(name: str) -> str:
    """Return the module of a name at the top of scjepa."""
    thing = getattr(scjepa, name)
    return thing.__module__ if isinstance(thing, type) else f"scjepa.{name}"


def _imports(path: Path) -> set[str]:
    """Return the floors of scjepa that a file imports, wherever in the file."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names = [node.module] if node.module != "scjepa" else [_home_of(a.name) for a in node.names]
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
        assert FLOORS.index(other) > FLOORS.index(own), f"{path}: {own} imports {other}, which is above it"


def _private(name: str) -> bool:
    """Return whether a part of a dotted name is private; Python's own, such as ``__version__``, are not."""
    return any(part.startswith("_") and not part.startswith("__") for part in name.split("."))


def _names_imported(path: Path) -> list[str]:
    """Return what a file imports, modules and names in them, in full."""
    names = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda p: str(p.relative_to(SOURCE)))
def test_nothing_private_of_another_floor_is_imported(path):
    """What several floors need is in ``_core``, which is everybody's, or public where it stands."""
    found = []
    for name in _names_imported(path):
        package, *parts = name.split(".")
        if package == "scjepa" and parts and parts[0] not in (_floor(path), *LOWEST) and _private(".".join(parts)):
            found.append(name)
    assert [name for name in found if name.split(".")[1] != "_demo"] == []


@pytest.mark.parametrize("module", ["scjepa", "scjepa.nn", "scjepa.tokens", "scjepa.training"])
def test_light_floors_load_nothing_heavy(module):
    code = f"import {module}, sys; print([m for m in {HEAVY!r} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    allowed = "['matplotlib']" if module == "scjepa.training" else "[]"  # lightning may load it
    assert out.strip() in ("[]", allowed)


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda p: str(p.relative_to(SOURCE)))
def test_nothing_private_of_another_package_is_imported(path):
    others = [name for name in _names_imported(path) if name.split(".")[0] not in ("scjepa", "__future__")]
    assert [name for name in others if any(part.startswith("_") for part in name.split("."))] == []


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
    models = [name for name in scjepa.__all__ if isinstance(getattr(scjepa, name), type)]
    assert len(scjepa.__all__) - len(models) <= 12
    with pytest.raises(AttributeError, match=r"no attribute 'nothing'$"):
        _ = scjepa.nothing


@pytest.mark.parametrize(
    ("module", "old", "new"),
    [
        ("", "TokenConfig", "scjepa.config.TokenConfig"),
        ("", "CELL_PRESETS", "scjepa.config.CELL_PRESETS"),
        ("nn", "SpatialJEPA", "scjepa.stjepa.STJEPAModule"),
        ("nn", "draw_mask", "scjepa.stjepa.draw_mask"),
        ("tokens", "CellSource", "scjepa.celljepa.CellSource"),
        ("training", "hold_out_cells", "scjepa.celljepa.hold_out_cells"),
        ("tl", "readout", "scjepa.tl.standardize"),
        ("metrics", "weighted_scores", "scjepa.metrics.clustering_scores"),
        ("datasets", "iter_simulated_tissue", "scjepa.datasets.simulated_tissue"),
    ],
)
def test_a_name_that_moved_is_told_the_new_one(module, old, new):
    package = getattr(scjepa, module) if module else scjepa
    with pytest.raises(AttributeError, match=f"it is {new}"):
        getattr(package, old)
    home, _, name = new.rpartition(".")
    assert hasattr(import_module(home), name)


@pytest.mark.parametrize(
    ("call", "old", "new"),
    [
        (scjepa.tl.niche_readout, "by", "library_key="),
        (scjepa.tl.standardize, "by", "library_key="),
        (scjepa.tl.niches, "standardize_by", "scjepa.tl.standardize"),
        (scjepa.concat, "section_key", "library_key="),
    ],
)
def test_an_old_keyword_is_told_the_new_one(call, old, new):
    with pytest.raises(TypeError, match=f"{old}.*{new}"):
        call(None, **{old: "section"})


def test_user_errors_are_never_asserts():
    for path in SOURCE.rglob("*.py"):
        asserts = [n.lineno for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Assert)]
        assert not asserts, f"{path}: {asserts}"
