"""What an atlas cannot use it refuses, naming what was found and the next call."""

from __future__ import annotations

import json

import numpy as np
import pytest

import scjepa
from scjepa import NicheAtlas


def test_niches_must_be_there(study):
    del study.obs["niche"]
    with pytest.raises(KeyError, match="Find niches first"):
        NicheAtlas.fit(study)


def test_the_read_out_must_have_been_made(make_section):
    adata = make_section("one", 0)
    adata.obs["niche"] = adata.obs["layer"]
    with pytest.raises(KeyError, match=r"scjepa.tl.niche_readout\(adata\)"):
        NicheAtlas.fit(adata)


def test_niches_of_another_read_out_are_refused(study):
    study.obsm["X_pca"] = study.obsm["X_stjepa_niche"][:, :5]
    scjepa.tl.niches(study, "X_pca", n_niches=3)
    with pytest.raises(ValueError, match=r"found in adata.obsm\['X_pca'\]"):
        NicheAtlas.fit(study)


def test_a_read_out_of_other_cells_is_refused(study):
    study.obsm["X_stjepa_niche"] = study.obsm["X_stjepa_niche"][::-1].copy()
    with pytest.raises(ValueError, match=r"not the read-out of these cells.*find_niches"):
        NicheAtlas.fit(study)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"names": {"9": "x"}}, "'9', which is none of the niches 0, 1, 2"),
        ({"names": ["a", "b"]}, "2 entries, and there are 3"),
        ({"names": ["a", "a", "b"]}, "called 'a'"),
        ({"names": {"0": "unknown"}}, "unknown"),
        ({"names": "abc"}, "the text 'abc'"),
        ({"error": 0}, "between 0 and 1"),
        ({"error": 1e-5}, "larger error"),
        ({"max_cells": 0}, "max_cells"),
    ],
)
def test_options_out_of_range(study, options, message):
    with pytest.raises(ValueError, match=message):
        NicheAtlas.fit(study, **options)


def test_an_empty_niche_is_left_out_and_a_tiny_one_is_told(study):
    study.obs["niche"] = study.obs["niche"].cat.add_categories(["empty", "tiny"])
    study.obs.loc[study.obs_names[:3], "niche"] = "tiny"
    with pytest.warns(UserWarning, match="cannot win a vote of 15: tiny"):
        atlas = NicheAtlas.fit(study)
    assert atlas.names == ["0", "1", "2", "tiny"]


def test_another_panel_is_refused_with_names_of_both_sides(atlas, new):
    new.var_names = [f"GENE{number}" for number in range(new.n_vars)]
    with pytest.raises(ValueError, match=r"60 of the 60 genes.*Missing: 'gene0'.*here: 'GENE0'"):
        atlas.predict(new)


def test_genes_of_one_name_are_refused(atlas, new):
    new.var_names = ["gene0", "gene0", *new.var_names[2:]]
    with pytest.raises(ValueError, match=r"more than once \('gene0'\).*var_names_make_unique"):
        atlas.predict(new)


def test_a_section_of_one_cell_is_told_and_a_selection_of_none_is_refused(atlas, new, study):
    one = new[:1].copy()
    with pytest.warns(UserWarning, match="1 cells, too few"):
        atlas.predict(one)
    assert one.obs["niche"].notna().all()
    with pytest.raises(ValueError, match="adata has no cells"):
        atlas.predict(new[:0].copy())
    with pytest.raises(ValueError, match="adata has no cells"):
        NicheAtlas.fit(study[:0])


def test_a_cell_without_a_place_is_named(make_section):
    adata = make_section("one", 0)
    scjepa.tl.find_niches(adata, n_niches=3)
    adata.obsm["spatial"] = adata.obsm["spatial"].astype(float)
    adata.obsm["spatial"][7] = np.nan
    with pytest.raises(ValueError, match=r"1 of .* in the coordinates.*before the graph is computed"):
        NicheAtlas.fit(adata)


def test_a_graph_must_be_there_and_of_one_kind(atlas, new):
    graph = new.obsp.pop("spatial_connectivities")
    with pytest.raises(KeyError, match="Compute the spatial graph first"):
        atlas.predict(new)
    new.obsp["spatial_connectivities"] = graph @ graph
    with pytest.warns(UserWarning, match="neighbors in the spatial graph"):
        atlas.predict(new)


def test_values_that_are_no_counts_are_told(atlas, new):
    new.X = new.X.astype(np.float32)
    new.X.data = np.log1p(new.X.data)
    with pytest.warns(UserWarning, match="whole numbers"):
        atlas.predict(new)


def test_a_small_section_is_told(atlas, make_section):
    new = make_section("new", 5, n_rows=3)
    with pytest.warns(UserWarning, match="90 cells, too few"):
        atlas.predict(new)


def test_noise_is_told_not_to_compare(atlas, new):
    rng = np.random.default_rng(0)
    counts = new.X.toarray()
    new.X = type(new.X)(np.stack([rng.permutation(column) for column in counts.T], axis=1))
    with pytest.warns(UserWarning, match="may not compare with the atlas"):
        atlas.predict(new)


def test_what_is_the_users_stays(atlas, new):
    new.obs["niche"] = "mine"
    with pytest.raises(ValueError, match="did not write"):
        atlas.predict(new)
    atlas.predict(new, "theirs")
    assert (new.obs["niche"] == "mine").all()
    new.obs["theirs"] = new.obs["theirs"].cat.rename_categories({"0": "white matter"})
    with pytest.raises(ValueError, match="renamed"):
        atlas.predict(new, "theirs")
    new.obs["other_confidence"] = 1.0
    with pytest.raises(ValueError, match="other_confidence"):
        atlas.predict(new, "other")


def test_clusters_do_not_replace_niches_of_the_atlas(atlas, new):
    atlas.predict(new)
    niches = new.obs["niche"].copy()
    for again in (scjepa.tl.find_niches, scjepa.tl.niches):
        with pytest.raises(ValueError, match=r"'niche'\] are those of an atlas.*key_added='niche_found'"):
            again(new, n_niches=3)
        assert new.obs["niche"].equals(niches)
    scjepa.tl.find_niches(new, n_niches=3, key_added="niche_found")
    atlas.predict(new)
    del new.obs["niche"]
    scjepa.tl.niches(new, n_niches=3)


def test_files_that_are_no_whole_atlas(atlas, new, tmp_path):
    folder = tmp_path / "atlas"
    with pytest.raises(FileNotFoundError, match=r"atlas.json.*NicheAtlas.save"):
        NicheAtlas.load(folder)
    atlas.save(folder)
    with pytest.raises(FileExistsError, match="overwrite=True"):
        atlas.save(folder)
    atlas.save(folder, overwrite=True)
    facts = json.loads((folder / "atlas.json").read_text())
    (folder / "atlas.json").write_text(json.dumps({**facts, "format": 99}))
    with pytest.raises(ValueError, match="newer scjepa"):
        NicheAtlas.load(folder)
    for older in range(1, facts["format"]):
        (folder / "atlas.json").write_text(json.dumps({**facts, "format": older}))
        with pytest.raises(ValueError, match=r"older scjepa.*NicheAtlas.fit"):
            NicheAtlas.load(folder)
    (folder / "atlas.json").write_text(json.dumps({**facts, "error": 0.5}))
    with pytest.raises(ValueError, match="changed by hand"):
        NicheAtlas.load(folder)
    (folder / "atlas.json").write_text("{")
    with pytest.raises(ValueError, match="damaged"):
        NicheAtlas.load(folder)
    (folder / "atlas.json").write_text(json.dumps({"model": "STJEPA", "format": 2}))
    with pytest.raises(ValueError, match="something else"):
        NicheAtlas.load(folder)
    (folder / "atlas.json").write_text(json.dumps(facts))
    whole = (folder / "cells.safetensors").read_bytes()
    (folder / "cells.safetensors").write_bytes(whole[:-8])
    with pytest.raises(ValueError, match=r"cells.safetensors is damaged"):
        NicheAtlas.load(folder)
    mine = tmp_path / "mine"
    mine.mkdir()
    with pytest.raises(FileExistsError, match="not a saved atlas"):
        atlas.save(mine, overwrite=True)


def test_a_section_without_niches_takes_no_part(study):
    last = study.obs["section"].iloc[-1]
    study.obs["niche"] = study.obs["niche"].where(study.obs["section"] != last)
    atlas = scjepa.NicheAtlas.fit(study)
    assert np.isfinite(atlas.calibration.distances).all()
