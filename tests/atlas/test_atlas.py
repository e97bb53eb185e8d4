"""An atlas gives niches of one study their names in the next, and says what it does not know."""

from __future__ import annotations

from itertools import pairwise

import joblib
import numpy as np
import pytest

import scjepa
from scjepa.metrics import ari

WRITTEN = {"niche", "niche_confidence", "niche_p_value"}


def _agree(one, other) -> float:
    return float((np.asarray(one, dtype=str) == np.asarray(other, dtype=str)).mean())


def test_its_own_cells_get_their_niches(found, study, atlas):
    atlas.predict(study, "again")
    known = (study.obs["again"] != "unknown").to_numpy()
    assert known.mean() >= 0.9
    assert _agree(study.obs["again"][known], found.obs["niche"][known]) >= 0.95
    np.testing.assert_allclose(study.obsm["again_membership"].sum(axis=1), 1, rtol=1e-5)


def test_a_new_section_gets_the_same_niches_under_the_same_names(found, atlas, new, snapshot_of):
    before = snapshot_of(new)
    atlas.predict(new)
    assert list(new.obs["niche"].cat.categories) == [*found.obs["niche"].cat.categories, "unknown"]
    assert ari(new.obs["layer"], new.obs["niche"]) > 0.7
    layer_of = {n: found.obs["layer"][found.obs["niche"] == n].mode()[0] for n in found.obs["niche"].cat.categories}
    known = new.obs["niche"] != "unknown"
    assert _agree(new.obs["niche"][known].astype(str).map(layer_of), new.obs["layer"][known]) > 0.9
    assert set(new.obs) - {"section", "layer", "cell_type"} == WRITTEN
    assert list(new.uns["niche_colors"])[:3] == list(found.uns["niche_colors"])
    told = new.uns["scjepa"]["niche"]
    assert told["coverage"] == 1
    assert list(told["sections"]) == ["new"]
    after = snapshot_of(new)
    assert all(after[name] == value for name, value in before.items())


@pytest.fixture
def snapshot_of():
    def take(adata):
        parts = {
            (slot, key): getattr(adata, slot)[key] for slot in ("obs", "obsm", "obsp") for key in getattr(adata, slot)
        }
        return {name: joblib.hash(part) for name, part in {"X": adata.X, **parts}.items()}

    return take


def test_the_order_of_cells_changes_nothing(found, atlas, new):
    mixed = new[np.random.default_rng(0).permutation(new.n_obs)].copy()
    study = found[np.random.default_rng(1).permutation(found.n_obs)].copy()
    other = scjepa.NicheAtlas.fit(study)
    atlas.predict(new)
    atlas.predict(mixed)
    assert _agree(mixed.obs["niche"], new.obs["niche"][mixed.obs_names]) == 1
    np.testing.assert_allclose(other.calibration.distances, atlas.calibration.distances, rtol=1e-2)
    other.predict(mixed, "other")
    assert _agree(mixed.obs["other"], mixed.obs["niche"]) > 0.99


def test_it_is_the_same_from_disk_bit_for_bit(atlas, new, tmp_path):
    atlas.save(tmp_path / "atlas")
    other = scjepa.NicheAtlas.load(tmp_path / "atlas")
    assert other.describe() == atlas.describe()
    assert (other.names, other.colors, other.error, other.level(2)) == (
        *(atlas.names, atlas.colors, atlas.error),
        atlas.level(2),
    )
    assert other.composition.equals(atlas.composition)
    twin = new.copy()
    atlas.predict(new)
    other.predict(twin)
    for column in WRITTEN:
        assert (new.obs[column] == twin.obs[column]).all()
    assert (new.obsm["niche_membership"] == twin.obsm["niche_membership"]).all()
    assert (new.obsm["X_stjepa_niche"] == twin.obsm["X_stjepa_niche"]).all()
    again = tmp_path / "again"
    other.save(again)
    for name in ("cells.safetensors", "readout.safetensors"):
        assert (again / name).read_bytes() == (tmp_path / "atlas" / name).read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again", "atlas"]


def test_results_go_through_a_file(atlas, new, tmp_path):
    import anndata as ad

    atlas.predict(new)
    new.write_h5ad(tmp_path / "new.h5ad")
    read = ad.read_h5ad(tmp_path / "new.h5ad")
    atlas.predict(read)  # what scjepa wrote it replaces
    assert _agree(read.obs["niche"], new.obs["niche"]) == 1


def test_a_region_that_the_atlas_lacks_is_unknown(atlas, make_section):
    new = make_section("new", 8, (0, 1, 2, 3))
    with pytest.warns(UserWarning, match="may not compare with the atlas"):
        atlas.predict(new)
    is_new = (new.obs["layer"] == "3").to_numpy()
    unknown = (new.obs["niche"] == "unknown").to_numpy()
    assert unknown[is_new].mean() >= 0.7
    assert unknown[~is_new].mean() <= 0.25


def test_false_alarms_on_further_sections_are_hardly_more_than_the_error(atlas, make_section):
    assert atlas.calibration.alarms(0.1).max() == pytest.approx(0.1, abs=0.01)
    for error in (0.1, 0.3):
        shares = []
        for seed in range(20, 24):
            new = make_section("new", seed)
            atlas.predict(new, error=error)
            shares.append((new.obs["niche"] == "unknown").mean())
        assert np.mean(shares) <= error + 0.05


def test_one_section_is_held_out_by_block(make_section):
    adata = make_section("one", 3, n_rows=20)
    scjepa.tl.find_niches(adata, n_niches=3)
    atlas = scjepa.NicheAtlas.fit(adata)
    assert atlas.calibration.held_out == "block"
    assert 0 < atlas.calibration.alarms(0.1).mean() <= 0.101
    del adata.obsm["spatial"]
    with pytest.raises(KeyError, match="spatial_key"):
        scjepa.NicheAtlas.fit(adata)


def test_names_colors_composition_and_markers_come_along(study):
    scjepa.tl.niche_markers(study)
    study.uns["niche_colors"] = ["#111111", "#222222", "#333333"]
    atlas = scjepa.NicheAtlas.fit(study, names={"0": "top"})
    assert atlas.names == ["top", "1", "2"]
    assert atlas.colors == {"top": "#111111", "1": "#222222", "2": "#333333"}
    assert list(atlas.composition.columns) == ["a", "b"]
    np.testing.assert_allclose(atlas.composition.sum(axis=1), 1)
    layer = int(study.obs["layer"][study.obs["niche"] == "0"].mode()[0])
    assert set(atlas.markers["top"][:5]) <= {f"gene{n}" for n in range(layer * 8, layer * 8 + 8)}
    assert "top" in atlas.describe() or "3 niches" in atlas.describe()


def test_renamed_and_merged_niches_can_be_kept(study, new):
    study.obs["mine"] = study.obs["niche"].astype(str).replace({"0": "L2/3", "1": "L2/3", "2": "WM"})
    study.obs.loc[study.obs_names[:20], "mine"] = np.nan
    atlas = scjepa.NicheAtlas.fit(study, "mine")
    assert atlas.names == ["L2/3", "WM"]
    atlas.predict(new)
    assert set(new.obs["niche"]) <= {"L2/3", "WM", "unknown"}


def test_levels_split_one_niche_at_a_time_and_keep_names(atlas):
    levels = [atlas.level(number) for number in range(1, 4)]
    assert [len(set(level.values())) for level in levels] == [1, 2, 3]
    assert levels[2] == {name: name for name in atlas.names}
    for coarse, fine in pairwise(levels):
        assert set(coarse.values()) < set(fine.values())
        for name in atlas.names:  # a finer niche lies within one coarser
            assert coarse[fine[name]] == coarse[name]


def test_a_part_of_the_genes_will_do_and_is_told(atlas, new):
    part = new[:, [name for name in new.var_names if int(name[4:]) % 10]].copy()
    atlas.predict(new)
    with pytest.warns(UserWarning, match=r"6 genes of the atlas are not there \('gene0'"):
        atlas.predict(part)
    assert _agree(part.obs["niche"], new.obs["niche"]) > 0.8
    assert 0.5 < part.uns["scjepa"]["niche"]["coverage"] < 1
    mixed = new[:, np.random.default_rng(0).permutation(new.n_vars)].copy()
    atlas.predict(mixed)
    assert _agree(mixed.obs["niche"], new.obs["niche"]) == 1


def test_an_embedding_that_the_read_out_reads_must_be_there(study, new):
    for adata in (study, new):
        adata.obsm["X_stjepa_cell"] = np.log1p(adata.X.toarray()[:, :50]).astype(np.float32)
    scjepa.tl.niche_readout(study, "X_stjepa_cell")
    scjepa.tl.niches(study, n_niches=3)
    atlas = scjepa.NicheAtlas.fit(study)
    atlas.predict(new)
    assert ari(new.obs["layer"], new.obs["niche"]) > 0.6
    new.obsm["X_stjepa_cell"] = new.obsm["X_stjepa_cell"][:, :30]
    with pytest.raises(ValueError, match=r"30 dimensions.*fitted on 50.*another model"):
        atlas.predict(new)
    del new.obsm["X_stjepa_cell"]
    with pytest.raises(KeyError, match="get_latent_representation"):
        atlas.predict(new)
