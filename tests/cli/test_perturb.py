"""``scjepa perturb``: predictions of a screen, in a file."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import scjepa.perturbation as pt
from scjepa.cli import main
from scjepa.datasets import read_gmt


@pytest.fixture(scope="module")
def screen(tmp_path_factory):
    """Return a folder of a screen, of which each perturbed gene moves others, and gene sets."""
    folder, rng = tmp_path_factory.mktemp("screen"), np.random.default_rng(0)
    conditions = ["ctrl", "g0+ctrl", "g1+ctrl", "g2+ctrl", "g0+g1"]
    rates = np.full((5, 12), 3.0)
    rates[1, 4:6], rates[2, 6:8], rates[3, 8:10], rates[4, 4:8] = 9, 9, 9, 9
    codes = np.repeat(np.arange(5), 30)
    cells = ad.AnnData(
        rng.poisson(rates[codes]).astype(np.float32),
        obs=pd.DataFrame({"condition": np.array(conditions)[codes]}, index=[f"c{i}" for i in range(150)]),
        var=pd.DataFrame(index=[f"g{i}" for i in range(12)]),
    )
    cells.write_h5ad(folder / "screen.h5ad")
    cells.write_zarr(folder / "screen.zarr")
    (folder / "sets.gmt").write_text("one\t\tg0\tg3\ntwo\t\tg1\tg2\tg9\n")
    return folder


@pytest.mark.parametrize("suffix", [".h5ad", ".zarr"])
def test_it_predicts_what_the_stack_does(screen, suffix, capsys):
    out = screen / f"predicted{suffix}"
    words = ["--conditions", "g3", "g1+g2", "--gene-sets", str(screen / "sets.gmt"), "--out", str(out)]
    assert main(["perturb", str(screen / f"screen{suffix}"), *words]) == 0
    said = capsys.readouterr()
    assert said.out.strip() == str(out)
    assert "conditions left out: " in said.err
    found = ad.read_h5ad(out) if suffix == ".h5ad" else ad.read_zarr(out)
    known = pt.condition_profiles(ad.read_h5ad(screen / "screen.h5ad"))
    vectors = pt.gene_set_vectors(
        {f"sets/{name}": genes for name, genes in read_gmt(screen / "sets.gmt").items()}, ["g0", "g1", "g2", "g3"]
    )
    stack = pt.PerturbationStack().fit(known.means, known.control, known.noise, vectors=vectors)
    wanted, error = stack.predict(["g3", "g1+g2"], return_std=True)
    np.testing.assert_allclose(found.X, wanted, rtol=1e-5)
    np.testing.assert_allclose(found.layers["error"], error, rtol=1e-4)
    np.testing.assert_allclose(found.layers["control"][0], known.control, rtol=1e-5)
    assert list(found.obs["kind"]) == ["single", "combo_seen2"]


def test_a_table_holds_expression_alone(screen):
    out = screen / "predicted.csv"
    assert main(["perturb", str(screen / "screen.h5ad"), "--conditions", "g3", "--out", str(out), "-q"]) == 0
    table = pd.read_csv(out, index_col="condition")
    assert list(table.index) == ["g3"]
    assert list(table.columns) == [f"g{i}" for i in range(12)]


def test_a_condition_named_twice_is_one_row(screen, tmp_path):
    words = ["--conditions", "g3", "g1+g0", "g3+ctrl", "g0+g1", "g3", "--out", str(tmp_path / "p.h5ad"), "-q"]
    assert main(["perturb", str(screen / "screen.h5ad"), *words]) == 0
    assert list(ad.read_h5ad(tmp_path / "p.h5ad").obs_names) == ["g3", "g1+g0"]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ([], 2, "--conditions"),
        (["--conditions", "g3"], 2, "--out"),
        (["--conditions", "g3", "--out", "p.npy"], 2, ".h5ad"),
        (["--conditions", "g3", "--condition-key", "guide"], 1, "guide"),
        (["--conditions", "g3", "--size-key", "depth"], 1, "depth"),
        (["--conditions", "g3 and g4"], 1, "g3 and g4"),
        (["--conditions", "ENSG1", "--gene-sets"], 1, "symbols or Ensembl ids"),
    ],
)
def test_what_is_wrong_is_named(screen, tmp_path, capsys, words, code, said):
    if "--gene-sets" in words:
        (tmp_path / "mouse.gmt").write_text("one\t\tKlf1\n")
        words = [*words, str(tmp_path / "mouse.gmt")]
    out = [] if (len(words) < 3 and code == 2) or "--out" in words else ["--out", str(tmp_path / "p.h5ad")]
    assert main(["perturb", str(screen / "screen.h5ad"), *words, *out, "-q"]) == code
    assert said in capsys.readouterr().err
    assert not (tmp_path / "p.h5ad").exists()
