"""The script that writes cells of CELLxGENE Census to a collection: on a small SOMA, and with a stub without one."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import zarr
from scipy import sparse

from scjepa.celljepa.stream import open_corpus

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "checkpoints" / "census_corpus.py"
if not SCRIPT.is_file():
    pytest.skip("the repository is not beside the tests", allow_module_level=True)
census = ModuleType("census_corpus")
exec(compile(SCRIPT.read_text(), str(SCRIPT), "exec"), census.__dict__)

FACTS = {"uri": "here", "where": census.WHERE, "measurement": "RNA", "layer": "raw", "genes": "feature_name"}


def cells(n: int = 50) -> ad.AnnData:
    """Return cells as the Census has them: two tissues, of which some cells are in another dataset as well."""
    rng = np.random.default_rng(0)
    obs = pd.DataFrame(
        {
            "tissue_general": np.where(np.arange(n) % 2, "kidney", "blood"),
            "is_primary_data": np.arange(n) % 3 > 0,
            "cell_type": "podocyte",
            "dataset_id": "a",
        },
        index=[f"c{i}" for i in range(n)],
    )
    var = pd.DataFrame({"feature_id": [f"ENSG{i}" for i in range(8)], "feature_name": [f"g{i}" for i in range(8)]})
    var.index = var["feature_id"].to_numpy()
    return ad.AnnData(sparse.csr_matrix(rng.poisson(1.0, (n, 8)).astype(np.float32)), obs=obs, var=var)


def kept(adata: ad.AnnData) -> ad.AnnData:
    return adata[(adata.obs["tissue_general"] == "kidney") & adata.obs["is_primary_data"]]


class Stub:
    """What the script asks of a SOMA experiment, made of an AnnData object; it fails at the given part."""

    def __init__(self, adata: ad.AnnData, fails_at: int = -1):
        self.adata, self.fails_at, self.n_read = adata, fails_at, 0
        self.obs = SimpleNamespace(schema=SimpleNamespace(names=["soma_joinid", *adata.obs]), read=self._read)

    def _read(self, column_names, value_filter):
        assert value_filter == census.WHERE
        ids = np.flatnonzero(self.adata.obs_names.isin(kept(self.adata).obs_names))
        return SimpleNamespace(concat=lambda: {"soma_joinid": pd.Series(ids)})

    @contextmanager
    def axis_query(self, measurement, obs_query):
        if self.n_read == self.fails_at:
            raise KeyboardInterrupt
        self.n_read += 1
        (ids,) = obs_query.coords
        part = self.adata[ids].copy()
        part.obs["soma_joinid"] = ids
        yield SimpleNamespace(to_anndata=lambda layer, column_names: part)


@pytest.fixture
def _somacore(monkeypatch):
    """Stand in for somacore where it is missing."""
    import sys

    stub = SimpleNamespace(AxisQuery=lambda coords: SimpleNamespace(coords=coords))
    monkeypatch.setitem(sys.modules, "somacore", stub)


@pytest.mark.usefixtures("_somacore")
def test_it_goes_on_where_it_was_stopped_and_the_corpus_has_each_cell_once(tmp_path):
    adata, out = cells(), tmp_path / "kidney"
    with pytest.raises(KeyboardInterrupt):
        census.write(Stub(adata, fails_at=1), out, FACTS, part=7)
    assert sorted(path.name for path in out.glob("part-*")) == ["part-00000"]
    again = Stub(adata)
    assert census.write(again, out, FACTS, part=7) == again.n_read == 2
    assert census.write(Stub(adata, fails_at=0), out, FACTS, part=7) == 0
    found = open_corpus([out], None, ["cell_type"], 4, 2)
    wanted = kept(adata)
    np.testing.assert_array_equal(found.X.compute().toarray(), wanted.X.toarray())
    assert list(found.var_names) == list(adata.var["feature_name"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kidney"]  # no drafts


@pytest.mark.usefixtures("_somacore")
def test_a_folder_of_another_filter_is_refused(tmp_path):
    census.write(Stub(cells()), tmp_path, FACTS, part=100)
    with pytest.raises(SystemExit, match="part=100, not 50"):
        census.write(Stub(cells()), tmp_path, FACTS, part=50)
    counts = cells()
    counts.X = counts.X * 0.5
    with pytest.raises(SystemExit, match="no counts"):
        census.write(Stub(counts), tmp_path / "new", FACTS, part=100)
    none = cells()
    none.obs["tissue_general"] = "blood"
    with pytest.raises(SystemExit, match="No cell is of the filter"):
        census.write(Stub(none), tmp_path / "none", FACTS, part=100)


def test_a_soma(tmp_path, monkeypatch):
    io = pytest.importorskip("tiledbsoma.io")
    adata = cells()
    io.from_anndata(str(tmp_path / "soma"), adata, measurement_name="RNA", X_layer_name="raw")
    words = ["census_corpus", "--uri", str(tmp_path / "soma"), "--out", str(tmp_path / "kidney"), "--part", "10"]
    monkeypatch.setattr("sys.argv", words)
    census.main()
    found = open_corpus([tmp_path / "kidney"], None, [], 4, 2)
    np.testing.assert_array_equal(found.X.compute().toarray(), kept(adata).X.toarray())
    assert list(found.var_names) == list(adata.var["feature_name"])
    assert zarr.open_group(tmp_path / "kidney", mode="r").attrs[census.MANIFEST]["n_cells"] == kept(adata).n_obs
