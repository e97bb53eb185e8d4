"""squidpy's functions under the names of any version, and messages that name those of the one that is installed."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import squidpy as sq
from anndata import AnnData

import scjepa
from scjepa._core import squidpy as _squidpy
from scjepa._core.squidpy import calculate_niche, graph_call, spatial_graph

KINDS = {
    "knn": {"n_neighs": 4},
    "radius": {"radius": 1.5},
    "delaunay": {"percentile": 90.0},
    "grid": {"n_neighs": 4},
}


@pytest.fixture
def cells():
    rng = np.random.default_rng(0)
    places = np.argwhere(np.ones((6, 10)))
    adata = AnnData(rng.poisson(1.0, size=(60, 8)).astype(np.float32), obsm={"spatial": places.astype(float)})
    adata.obs["section"] = pd.Categorical(np.repeat(["s1", "s2"], 30))
    return adata


def functions(monkeypatch, **given):
    """Let squidpy have these functions of ``gr`` alone."""
    monkeypatch.setattr(sq, "gr", SimpleNamespace(**given))


@pytest.mark.parametrize("kind", KINDS)
def test_graphs_are_built_within_sections_without_a_word(cells, kind):
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        spatial_graph(cells, kind, library_key="section", **KINDS[kind])
    graph = cells.obsp["spatial_connectivities"].tocoo()
    assert graph.nnz > 0
    sections = cells.obs["section"].to_numpy()
    assert (sections[graph.row] == sections[graph.col]).all()
    assert cells.uns["spatial_neighbors"]["connectivities_key"] == "spatial_connectivities"


@pytest.mark.skipif(not hasattr(sq.gr, "spatial_neighbors"), reason="this squidpy has the new names alone")
@pytest.mark.parametrize("kind", KINDS)
def test_older_versions_give_the_same_graph(cells, kind, monkeypatch):
    expected = cells.copy()
    spatial_graph(expected, kind, library_key="section", **KINDS[kind])
    functions(monkeypatch, spatial_neighbors=sq.gr.spatial_neighbors)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        spatial_graph(cells, kind, library_key="section", **KINDS[kind])
    for part in ("connectivities", "distances"):
        found, wanted = (adata.obsp[f"spatial_{part}"].toarray() for adata in (cells, expected))
        np.testing.assert_array_equal(found, wanted)


def test_a_section_of_fewer_cells_than_neighbors_is_named(cells):
    few = cells[:34].copy()
    with pytest.raises(ValueError, match=r"section 's2' has 4 cells, too few for 4 neighbors each.*n_neighs=3, libra"):
        spatial_graph(few, n_neighs=4, library_key="section")
    spatial_graph(few, n_neighs=3, library_key="section")
    with pytest.raises(ValueError, match=r"There are 4 cells, too few for 6 neighbors each.*n_neighs=3\)"):
        spatial_graph(few[30:].copy())
    few.obs["section"] = few.obs["section"].cat.add_categories("empty")
    with pytest.raises(ValueError, match=r"'empty' has 0 cells.*remove_unused_categories\(\)\.$"):
        spatial_graph(few, n_neighs=3, library_key="section")


def test_the_call_that_a_message_names_can_be_made(cells):
    spatial_graph(cells, n_neighs=7, library_key="section")
    expected = cells.obsp.pop("spatial_connectivities")
    cells.obsm["places"] = cells.obsm.pop("spatial")
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        exec(graph_call(7, "section", key_added="mine", spatial_key="places"), {"sq": sq, "adata": cells})
    assert (cells.obsp["mine_connectivities"] != expected).nnz == 0


@pytest.mark.parametrize("columns", [("x_centroid", "y_centroid"), ("X", "y"), None])
def test_where_coordinates_lie_elsewhere_the_call_writes_them_first(cells, columns):
    spatial_graph(cells, n_neighs=10, library_key="section")
    expected = cells.obsp["spatial_connectivities"]
    places = cells.obsm["spatial"]
    bare = AnnData(cells.X, obs=cells.obs)
    bare.obsm["X_spatial_pca"] = np.zeros((bare.n_obs, 5))  # an embedding, and no place
    if columns is None:
        bare.obsm["X_spatial"] = places
    else:
        bare.obs[list(columns)] = places
    with pytest.raises(KeyError, match="spatial graph") as error:
        scjepa.tl.find_niches(bare)
    exec(error.value.args[0].split("graph first: ")[1], {"sq": sq, "adata": bare})
    assert (bare.obsp["spatial_connectivities"] != expected).nnz == 0


def test_where_there_are_no_coordinates_they_are_asked_for(cells):
    with pytest.raises(KeyError, match=r"obsm\['spatial'\].*coordinates"):
        scjepa.tl.find_niches(AnnData(cells.X, obs=cells.obs))


def test_the_call_is_that_of_the_installed_version(monkeypatch):
    functions(monkeypatch, spatial_neighbors_knn=print)
    assert graph_call() == "sq.gr.spatial_neighbors_knn(adata, n_neighs=10)"
    assert graph_call(..., ...) == "sq.gr.spatial_neighbors_knn(adata, n_neighs=..., library_key=...)"
    functions(monkeypatch, spatial_neighbors=print)
    assert graph_call(5, "a'b") == (
        "sq.gr.spatial_neighbors(adata, n_neighs=5, coord_type='generic', library_key=\"a'b\")"
    )


@pytest.mark.parametrize(
    ("installed", "name"),
    [("1.6.6", "spatial_neighbors"), ("1.8.2", "spatial_neighbors_knn"), ("1.9.0rc1", "spatial_neighbors_knn")],
)
def test_a_version_that_is_not_imported_is_asked_for_its_number(monkeypatch, installed, name):
    monkeypatch.delitem(sys.modules, "squidpy")
    monkeypatch.setattr(_squidpy, "version", lambda package: installed)
    assert graph_call().split("(")[0] == f"sq.gr.{name}"
    assert "squidpy" not in sys.modules


def test_without_squidpy_the_newest_call_is_named(monkeypatch):
    def missing(package):
        raise metadata.PackageNotFoundError(package)

    monkeypatch.delitem(sys.modules, "squidpy")
    monkeypatch.setattr(_squidpy, "version", missing)
    assert "spatial_neighbors_knn(" in graph_call()


def test_niches_are_asked_for_by_flavor_and_seeded(monkeypatch):
    called = []

    def old(adata, flavor, *, n_components=None, random_state=42, resolutions=None):
        called.append((flavor, n_components, random_state, resolutions))

    def cellcharter(adata, *, n_clusters=10, rng=None):
        called.append((n_clusters, rng))

    def utag(adata, *, resolutions):
        called.append(resolutions)

    functions(monkeypatch, calculate_niche=old)
    calculate_niche(None, "cellcharter", 3, n_components=5)
    calculate_niche(None, "utag", 3, resolutions=[1.0])
    functions(monkeypatch, calculate_niche_cellcharter=cellcharter, calculate_niche_utag=utag)
    calculate_niche(None, "cellcharter", 3, n_components=5)
    calculate_niche(None, "utag", 3, resolutions=[1.0])
    assert called == [("cellcharter", 5, 3, None), ("utag", None, 42, [1.0]), (5, 3), [1.0]]


def test_peers_are_handed_the_file_alone(tmp_path):
    """Where scjepa is not installed, an adapter has it still."""
    worker = Path(scjepa.__file__).parent / "benchmark" / "worker"
    (tmp_path / "adapter.py").write_text(
        "import sys\nfrom scjepa_squidpy import spatial_graph\nPACKAGES = ('numpy',)\n"
        "def run(adata, seed):\n"
        "    return {'info': {'scjepa': 'scjepa' in sys.modules, 'calls': callable(spatial_graph)}}\n"
    )
    AnnData(np.ones((3, 2))).write_h5ad(tmp_path / "input.h5ad")
    (tmp_path / "arguments.json").write_text(json.dumps({"seed": 0}))
    subprocess.run([sys.executable, worker, tmp_path / "adapter.py", tmp_path], check=True, timeout=120)
    with np.load(tmp_path / "output.npz") as output:
        assert json.loads(str(output["about"]))["info"] == {"scjepa": False, "calls": True}


def test_no_file_calls_squidpys_passing_names():
    """They are named in one place; what else asks for them breaks with squidpy 1.9, or warns."""
    root = Path(__file__).parent.parent
    files = [p for place in ("src", "tests", "benchmarks", "docs", "tutorials") for p in (root / place).rglob("*.*")]
    calls = {"sq.gr.spatial_neighbors(", "squidpy.gr.spatial_neighbors(", "sq.gr.calculate_niche("}
    own = {Path(__file__), Path(_squidpy.__file__)}
    found = [
        str(path.relative_to(root))
        for path in files
        if path.suffix in (".py", ".md", ".ipynb") and path not in own and "_build" not in path.parts
        if any(call in path.read_text() for call in calls)
    ]
    assert set(found) <= {"docs/faq.md"}  # which tells owners of an older version
