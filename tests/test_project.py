"""What the project says of versions, addresses and workflows agrees, wherever it is said."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
GITHUB = ROOT / ".github"
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]

in_a_clone = pytest.mark.skipif(not GITHUB.is_dir(), reason="the repository is not beside the tests")


def locked(name: str) -> dict[str, Version]:
    """Return versions by package of a file of constraints."""
    lines = re.findall(r"(?m)^([\w.-]+)==(\S+)", (ROOT / name).read_text())
    return {canonicalize_name(package): Version(number) for package, number in lines}


def required(*groups: str) -> list[Requirement]:
    """Return the dependencies, and those of groups."""
    lines = list(PROJECT["dependencies"])
    for group in groups:
        lines += [line for line in PYPROJECT["dependency-groups"][group] if isinstance(line, str)]
    return [Requirement(line) for line in lines]


@pytest.mark.parametrize(
    ("name", "groups"),
    [
        ("constraints.txt", ("test", "dev", "doc")),
        ("constraints-newest.txt", ("test", "dev", "doc")),
        ("constraints-lowest.txt", ("test",)),
    ],
)
def test_every_dependency_is_locked_at_a_version_that_is_allowed(name, groups):
    versions = locked(name)
    for one in required(*groups):
        assert versions[canonicalize_name(one.name)] in one.specifier, one


def test_the_lowest_versions_are_the_floors():
    versions = locked("constraints-lowest.txt")
    for one in required():
        (floor,) = [Version(part.version) for part in one.specifier if part.operator == ">="]
        assert versions[canonicalize_name(one.name)] == floor, one


def test_every_dependency_is_imported():
    """What users install is used: somewhere in the package, or by a package that needs it to be there."""
    source = "\n".join(path.read_text() for path in (ROOT / "src").rglob("*.py"))
    modules = {"scikit-learn": "sklearn", "scvi-tools": "scvi", "umap-learn": "umap"}
    for one in required():
        module = modules.get(one.name, one.name.replace("-", "_"))
        assert re.search(rf"(?m)^\s*(from|import) {module}\b", source), one


def test_the_command_line_tells_the_versions_of_what_scjepa_stands_on():
    run = [sys.executable, "-c", "import sys; from scjepa.cli import main; sys.exit(main(['--versions']))"]
    told = subprocess.run(run, capture_output=True, text=True, check=True, timeout=300).stdout
    for name in ("scjepa", "anndata", "scanpy", "scib-metrics", "scvi-tools", "squidpy", "torch", "Python", "OS"):
        assert re.search(rf"(?m)^{name} \S+", told), told


@in_a_clone
@pytest.mark.parametrize("path", sorted([*GITHUB.rglob("*.y*ml"), ROOT / ".codecov.yaml"]), ids=lambda p: p.name)
def test_files_of_services_can_be_read(path):
    assert isinstance(yaml.safe_load(path.read_text()), dict)


@in_a_clone
def test_every_python_that_is_promised_is_tested():
    named = re.findall(r"Python :: (3\.\d+)", "\n".join(PROJECT["classifiers"]))
    assert PROJECT["requires-python"] == f">={named[0]}"
    jobs = yaml.safe_load((GITHUB / "workflows" / "test.yaml").read_text())["jobs"]
    tested = [one for one in jobs["test"]["strategy"]["matrix"]["include"] if one["name"] == one["python"]]
    assert [one["python"] for one in tested] == named
    for one in jobs["test"]["strategy"]["matrix"]["include"]:
        assert (ROOT / one.get("versions", "pyproject.toml")).is_file()


@in_a_clone
def test_addresses_are_those_of_the_project():
    urls = PROJECT["urls"]
    assert all(url.startswith((urls["Source"], urls["Documentation"])) for url in urls.values())
    entry = yaml.safe_load((GITHUB / "scverse" / "meta.yaml").read_text())
    assert (entry["project_home"], entry["documentation_home"]) == (urls["Source"], urls["Documentation"])
    assert (entry["license"], entry["version"]) == (PROJECT["license"], f"v{PROJECT['version']}")
    assert json.loads((ROOT / ".zenodo.json").read_text())["license"].upper() == PROJECT["license"].upper()
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert (cited["version"], cited["repository-code"]) == (PROJECT["version"], urls["Source"])
    shown = re.findall(r"https://github\.com/scjepa/[\w-]+", (ROOT / "README.md").read_text())
    assert set(shown) == {urls["Source"]}
