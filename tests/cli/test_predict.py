"""The niches of an atlas on the command line."""

from __future__ import annotations

import anndata as ad
import pytest

import scjepa
from scjepa._core.squidpy import spatial_graph
from scjepa.cli import main


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder of an atlas of two sections, and of a third without a graph."""
    folder = tmp_path_factory.mktemp("atlas")
    whole = scjepa.datasets.simulated_tissue(
        600, n_sections=3, n_niches=2, n_cell_types=3, n_genes=40, difficulty="easy", seed=2
    )
    whole.obs["section"] = whole.obs["section"].astype(str)
    sections = sorted(set(whole.obs["section"]))
    rest = whole[whole.obs["section"] != sections[2]].copy()
    rest.obs["section"] = rest.obs["section"].astype("category")
    spatial_graph(rest, n_neighs=8, library_key="section")
    scjepa.tl.find_niches(rest, n_niches=2, align="scale")
    scjepa.NicheAtlas.fit(rest, names=["inner", "outer"]).save(folder / "atlas")
    for section in sections[1:]:
        new = whole[whole.obs["section"] == section]
        ad.AnnData(new.X, obs=new.obs[["region"]], var=new.var[[]], obsm={"spatial": new.obsm["spatial"]}).write_h5ad(
            folder / f"{section}.h5ad"
        )
    return folder


def test_files_get_the_niches_of_the_atlas(folder, tmp_path, capsys):
    files = [str(path) for path in sorted(folder.glob("*.h5ad"))]
    words = ["predict", *files, "--atlas", str(folder / "atlas")]
    assert main([*words, "--out", str(tmp_path / "out")]) == 0
    written = capsys.readouterr().out.split()
    assert len(written) == 2
    atlas = scjepa.NicheAtlas.load(folder / "atlas")
    for source, path in zip(files, written, strict=True):
        cells, own = ad.read_h5ad(path), ad.read_h5ad(source)
        assert list(cells.obs["niche"].cat.categories) == ["inner", "outer", "unknown"]
        spatial_graph(own, n_neighs=8)
        atlas.predict(own)
        assert (cells.obs["niche"] == own.obs["niche"]).all()
        assert cells.uns["scjepa"]["niche"]["coverage"] == 1
    assert main([*words[:2], *words[3:], "--out", str(tmp_path / "out")]) == 1  # there already
    assert main(["predict", written[0], *words[3:], "--out", str(tmp_path / "again.h5ad")]) == 1
    assert main(["predict", written[0], *words[3:], "--overwrite", "--error", "0.3"]) == 0


def test_what_is_wrong_is_told_in_one_line(folder, tmp_path, capsys):
    file = str(next(folder.glob("*.h5ad")))
    assert main(["predict", file, "--out", str(tmp_path / "o.h5ad")]) == 2
    assert "--atlas" in capsys.readouterr().err
    assert main(["predict", file, "--atlas", str(tmp_path), "--out", str(tmp_path / "o.h5ad")]) == 1
    assert "NicheAtlas.save" in capsys.readouterr().err
