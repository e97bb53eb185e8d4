"""The documentation names what there is: every public name has an entry, and every trace leads somewhere."""

from __future__ import annotations

import ast
import json
import os
import re
import sys
from contextlib import contextmanager, suppress
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
FLOORS = (
    "",
    "config",
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
    "cohort",
    "cli",
)

pytestmark = pytest.mark.skipif(not (DOCS / "api.md").is_file(), reason="the documentation is not beside the tests")


@contextmanager
def _on_path(folder: Path):
    """Let modules of a folder be imported."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))


def _script(name: str) -> ModuleType:
    """Return a module of ``scripts``."""
    with _on_path(ROOT / "scripts"):
        return import_module(name)


def _resolve(name: str) -> object:
    """Return the object of a dotted name below ``scjepa``, importing modules on the way."""
    thing: object = import_module("scjepa")
    if (first := name.split(".")[0]) == "cli":  # the one floor that is not loaded on first use
        import_module(f"scjepa.{first}")
    for part in name.split("."):
        thing = getattr(thing, part)
    return thing


def _resolves(name: str) -> bool:
    """Return whether there is an object of that name; its value may be None, as a setting's is where none is set."""
    try:
        _resolve(name)
    except (AttributeError, ImportError):
        return False
    return True


@cache
def _entries() -> dict[str, object]:
    """Return what the API page lists: items of autosummaries, data, modules, and the registries."""
    text = (DOCS / "api.md").read_text()
    names = set()
    for block in re.findall(r"\.\. autosummary::\n(?:   :.*\n)*\n((?:   \S+\n)+)", text):
        names |= set(block.split())
    names |= set(re.findall(r"\.\. (?:py:data|module):: scjepa\.(\S+)", text))
    with _on_path(DOCS):
        registries = import_module("_tables").REGISTRIES
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


PAGES = [path for ending in ("*.md", "*.ipynb") for path in (*DOCS.rglob(ending), *(DOCS / "tutorials").glob(ending))]
"""Pages and notebooks; the folder of notebooks is a link, which older Pythons do not follow."""


def _text(path: Path) -> str:
    """Return the prose of a page: of a notebook its markdown."""
    if path.suffix == ".md":
        return path.read_text()
    cells = json.loads(path.read_text())["cells"]
    return "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")


def _anchors(path: Path) -> set[str]:
    """Return what can be linked to on a page: headings as MyST names them, and labels."""
    text = re.sub(r"^```.*?^```", "", _text(path), flags=re.DOTALL | re.MULTILINE)
    headings = (re.sub(r"[^\w\s-]", "", line.lower()) for line in re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE))
    return {line.strip().replace(" ", "-") for line in headings} | set(
        re.findall(r"^\(([\w-]+)\)=$", text, re.MULTILINE)
    )


@pytest.mark.parametrize("path", sorted(set(PAGES)), ids=lambda p: p.name)
def test_documents_and_places_that_pages_name_exist(path):
    if {"_build", "generated", ".ipynb_checkpoints"} & set(path.relative_to(DOCS).parts):
        pytest.skip("made by a build")
    text = _text(path)
    for target in re.findall(r"\{doc\}`(?:[^`<]*<)?([^`<>]+)>?`", text):
        # By name alone: the folder of notebooks is a link to another place.
        place = Path(os.path.normpath(DOCS / target[1:] if target.startswith("/") else path.parent / target))
        assert any(place.with_name(place.name + end).is_file() for end in (".md", ".ipynb")), f"no page {target}"
    for page, anchor in re.findall(r"\]\((?!https?:)([^)\s#]*)#([^)\s]+)\)", text):
        target = path.parent / page if page else path
        if target.suffix in (".md", ".ipynb"):
            assert anchor in _anchors(target), f"{page or path.name} has no place #{anchor}"


def test_every_tutorial_is_in_the_gallery_and_in_the_menu():
    page = (DOCS / "tutorials.md").read_text()
    for path in (DOCS / "tutorials").glob("*.ipynb"):
        assert f":link: tutorials/{path.stem}\n" in page
        assert f"\ntutorials/{path.stem}\n" in page


def _pages() -> list[Path]:
    return _script("check_prose").all_pages() if DOCS.is_dir() else []


@pytest.mark.parametrize("path", _pages(), ids=lambda path: str(path.relative_to(ROOT)))
def test_pages_are_plain_and_short(path):
    """Banned phrases, code wider than the page, and on main pages long sentences and too many words."""
    assert not _script("check_prose").check(path)


def test_prose_is_measured_as_a_reader_would():
    prose = _script("check_prose")
    page = (
        "# A heading. Not counted\n\nOne two three. Four five `a b`, six!\n\n```python\nx = 1\n```\n\n- seven to nine\n"
    )
    assert [len(one.split()) for one in prose.sentences(page)] == [3, 4, 3]
    assert prose.mean_length(page) == pytest.approx(10 / 3)
    assert {DOCS / "index.md", DOCS / "quickstart.md", DOCS / "faq_data.md"} < set(prose.main_pages())
    assert DOCS / "results_details.md" not in prose.main_pages()


@pytest.mark.parametrize("path", sorted((ROOT / "tutorials").glob("*.ipynb")), ids=lambda path: path.stem)
def test_notebooks_were_executed_in_order_and_show_no_warning(path):
    found = _script("check_pages").check_notebook(path)
    assert not found


@pytest.mark.parametrize("path", sorted((ROOT / "tutorials").glob("*.ipynb")), ids=lambda path: path.stem)
def test_tutorials_silence_no_warning_and_end_with_a_figure(path):
    cells = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    assert "warnings" not in "".join("".join(cell["source"]) for cell in cells)
    assert any("image/png" in output.get("data", {}) for output in cells[-1]["outputs"])


def test_built_pages_are_looked_at(tmp_path):
    """What scripts/check_pages.py says of pages that need no browser."""
    check = _script("check_pages").check_html
    (tmp_path / "there.html").write_text("<h1 id='place'>There</h1>")
    (tmp_path / "index.html").write_text(
        "<a href='there.html#place'>fine</a> <a href='there.html#nowhere'>dead</a> <a href='gone.html'>dead</a>"
        "<a href='https://example.org'>elsewhere</a> <img src='gone.png' alt='A map'> <img src='data:,' alt=''>"
        "<script src='https://cdn.example.org/x.js'></script><link rel='canonical' href='https://example.org'>"
    )
    found = "\n".join(check(tmp_path))
    for sentence in ("'there.html#nowhere' leads to no place", "'gone.html' leads to no file", "'gone.png' is missing"):
        assert sentence in found
    assert "has no alternative text" in found
    assert "x.js' is loaded from another site" in found
    assert found.count("\n") == 4


def test_a_page_that_the_browser_finds_too_wide_is_named():
    about = _script("check_pages").about
    one = {"page": "/a.html", "width": 420, "scroll": 451, "client": 420, "wide": ["code 'x'"], "cut": ["pre"]}
    one |= {"broken": ["b.png"], "outside": ["https://example.org/x.js"]}
    assert [sentence.split(": ", 1)[0] for sentence in about(one)] == ["a.html at 420 px"] * 3
    assert not list(about(one | {"scroll": 420, "broken": [], "outside": []}))
    assert len(list(about(one | {"width": 1300}))) == 4


def test_pictures_of_the_gallery_are_there_and_small():
    with _on_path(DOCS):
        figures = import_module("_figures")
    for name, picture in figures.PICTURES.items():
        path = figures.GALLERY / f"{name}.png"
        assert path.is_file(), f"python docs/_figures.py draws {name}"
        assert path.stat().st_size < 200_000
        assert picture.alt.endswith(".")
        assert picture.source.endswith(".")
    entries = {f"pl_{name}" for name in import_module("scjepa.pl").__all__}
    assert entries <= set(figures.PICTURES), "an entry of pl without a picture: docs/_figures.py"


def test_a_reader_finds_the_words_of_other_packages():
    text = (DOCS / "glossary.md").read_text()
    terms = set(re.search(r"```\{glossary\}\n(.*?)```", text, re.DOTALL).group(1).split("\n"))
    assert {"section", "sample", "slide", "FOV", "core", "batch", "niche", "domain", "spot"} <= terms


def _code_of(path: Path) -> list[ast.AST]:
    """Return the Python of a page: cells of a notebook, blocks of Markdown that can be parsed."""
    text = path.read_text()
    if path.suffix == ".ipynb":
        blocks = ["".join(cell["source"]) for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
    else:
        blocks = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    found: list[ast.AST] = []
    for block in blocks:
        with suppress(SyntaxError):  # an outline, such as a class without a body
            found.append(ast.parse(block))
    return found


def _dotted(node: ast.AST) -> str | None:
    """Return ``a.b`` of an expression ``scjepa.a.b``."""
    parts = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return ".".join(reversed(parts)) if parts and isinstance(node, ast.Name) and node.id == "scjepa" else None


@pytest.mark.parametrize(
    "path",
    [
        ROOT / "README.md",
        *(path for path in PAGES if "tutorials" not in path.parts and not {"_build", "generated"} & set(path.parts)),
        *(ROOT / "tutorials").glob("*.ipynb"),
    ],
    ids=lambda path: path.name,
)
def test_code_of_pages_names_what_there_is(path):
    for tree in _code_of(path):
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("scjepa"):
                home = import_module(str(node.module))
                for alias in node.names:
                    assert hasattr(home, alias.name), f"{path.name}: from {node.module} import {alias.name}"
            if (name := _dotted(node)) is not None:
                assert _resolves(name), f"{path.name}: scjepa.{name}"
