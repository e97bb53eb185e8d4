"""The documentation names what there is: every public name has an entry, and every trace leads somewhere."""

from __future__ import annotations

import re
import sys
from functools import cache
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
FLOORS = (
    "",
    "tl",
    "pl",
    "metrics",
    "datasets",
    "benchmark",
    "models",
    "pretrained",
    "perturbation",
    "tokens",
    "nn",
    "training",
    "cli",
)

pytestmark = pytest.mark.skipif(not (DOCS / "api.md").is_file(), reason="the documentation is not beside the tests")


def _resolve(name: str) -> object:
    """Return the object of a dotted name below ``scjepa``, importing modules on the way."""
    thing: object = import_module("scjepa")
    if (first := name.split(".")[0]) == "cli":  # the one floor that is not loaded on first use
        import_module(f"scjepa.{first}")
    for part in name.split("."):
        thing = getattr(thing, part)
    return thing


@cache
def _entries() -> dict[str, object]:
    """Return what the API page lists: items of autosummaries, data, modules, and the registries."""
    text = (DOCS / "api.md").read_text()
    names = set()
    for block in re.findall(r"\.\. autosummary::\n(?:   :.*\n)*\n((?:   \S+\n)+)", text):
        names |= set(block.split())
    names |= set(re.findall(r"\.\. (?:py:data|module):: scjepa\.(\S+)", text))
    sys.path.insert(0, str(DOCS))
    try:
        registries = import_module("_tables").REGISTRIES
    finally:
        sys.path.remove(str(DOCS))
    names |= {f"{floor}.{name}" for floor, each in registries.items() for name in each}
    return {name: _resolve(name) for name in names}


@pytest.mark.parametrize("floor", FLOORS)
def test_every_public_name_has_an_entry(floor):
    entries = _entries()
    documented = {id(thing) for thing in entries.values()}  # a name that floors pass on has one entry
    module = import_module(f"scjepa.{floor}" if floor else "scjepa")
    missing = [
        name
        for name in module.__all__
        if f"{floor}.{name}".lstrip(".") not in entries and id(getattr(module, name)) not in documented
    ]
    assert not missing, f"docs/api.md has no entry for {missing} of scjepa.{floor}"


def test_the_page_lists_nothing_private_and_enough():
    entries = _entries()
    assert len(entries) > 100
    assert not [name for name in entries if name.split(".")[-1].startswith("_") and name != "__version__"]


def _links(page: str) -> list[tuple[str, str]]:
    return re.findall(r"\[`([^`]+)`\]\(([^)#\s]+)\)", (DOCS / page).read_text())


def test_every_trace_leads_to_what_it_names():
    page = DOCS / "user_guide" / "paper.md"
    links = _links("user_guide/paper.md")
    tests = [(name, target) for name, target in links if name.startswith("test_")]
    assert len(tests) > 20
    for name, target in links:
        path = (page.parent / target).resolve()
        assert path.is_relative_to(ROOT), f"{target} lies outside the repository"
        assert path.exists(), f"{page.name} links to {target}, which does not exist"
        if path.suffix == ".py":
            defined = rf"def {name}\(" if name.startswith("test_") else rf"\b{re.escape(name.split('.')[-1])}\b"
            assert re.search(defined, path.read_text()), f"{target} has no {name}"


@pytest.mark.parametrize("path", sorted(DOCS.rglob("*.md")) if DOCS.is_dir() else [], ids=lambda p: p.name)
def test_links_between_pages_exist(path):
    if {"_build", "generated"} & set(path.relative_to(DOCS).parts):
        pytest.skip("made by a build")
    for target in re.findall(r"\]\((?!https?://|mailto:|#)([^)\s#]+)", path.read_text()):
        assert (path.parent / target).exists(), f"{path.relative_to(ROOT)} links to {target}, which does not exist"
