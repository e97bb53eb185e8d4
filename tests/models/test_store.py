from __future__ import annotations

import json
import warnings

import numpy as np
import pytest

import scjepa
from scjepa.models import store as _store


@pytest.fixture
def folder(trained, tmp_path):
    model, _ = trained
    model.save(tmp_path / "model")
    return tmp_path / "model"


def test_saved_and_loaded_embeds_bit_for_bit(trained, folder):
    model, adata = trained
    loaded = scjepa.STJEPA.load(folder, adata.copy(), accelerator="cpu")
    for scale in ("neighborhood", "cell"):
        np.testing.assert_array_equal(
            loaded.get_latent_representation(scale=scale), model.get_latent_representation(scale=scale)
        )
    assert loaded.config == model.config
    assert loaded.is_trained
    assert loaded.diagnose() == model.diagnose()
    assert loaded.history["loss"].equals(model.history["loss"])
    assert loaded.vocabulary == model.vocabulary


def test_data_can_be_saved_beside_the_model(trained, tmp_path):
    model, _ = trained
    model.save(tmp_path / "m", save_anndata=True)
    loaded = scjepa.STJEPA.load(tmp_path / "m", accelerator="cpu")
    np.testing.assert_array_equal(loaded.get_latent_representation(), model.get_latent_representation())


def test_a_loaded_model_trains_on(trained, folder):
    model, adata = trained
    loaded = scjepa.STJEPA.load(folder, adata.copy(), accelerator="cpu")
    loaded.train(max_steps=2, accelerator="cpu", progress_bar=False)
    assert loaded.n_steps_ == model.n_steps_ + 2


def test_resolved_configuration_is_saved_and_no_pickle(folder):
    assert sorted(p.name for p in folder.iterdir()) == ["model.json", "weights.safetensors"]
    facts = json.loads((folder / "model.json").read_text())
    assert facts["config"]["encoder"]["width"] == 32
    assert "preset" not in facts
    assert facts["setup"]["library_key"] == "section"


def test_saved_files_have_the_permissions_new_files_have(folder, tmp_path):
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "file").write_text("")
    usual, usual_file = ((tmp_path / p).stat().st_mode for p in ("new", "new/file"))
    assert folder.stat().st_mode == usual
    assert {p.stat().st_mode for p in folder.iterdir()} == {usual_file}


def test_existing_folders_are_not_replaced_unasked(trained, folder, tmp_path):
    model, _ = trained
    with pytest.raises(FileExistsError, match="overwrite=True"):
        model.save(folder)
    model.save(folder, overwrite=True)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="not a saved model"):
        model.save(tmp_path / "other", overwrite=True)
    assert (tmp_path / "other" / "thesis.txt").read_text() == "mine"


def test_a_failed_save_leaves_the_old_model(trained, folder, monkeypatch):
    model, _ = trained
    before = (folder / "model.json").read_bytes()
    monkeypatch.setattr("scjepa.models.store.json.dumps", lambda *a, **k: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        model.save(folder, overwrite=True)
    assert (folder / "model.json").read_bytes() == before
    assert [p.name for p in folder.parent.iterdir()] == ["model"]


def test_damaged_foreign_and_newer_files_are_refused(trained, folder, change_saved):
    _, adata = trained
    adata = adata.copy()
    load = lambda: scjepa.STJEPA.load(folder, adata, accelerator="cpu")  # noqa: E731
    weights, model = (folder / "weights.safetensors"), (folder / "model.json")
    good, facts = weights.read_bytes(), json.loads(model.read_text())
    weights.write_bytes(good[: len(good) // 2])
    with pytest.raises(ValueError, match="damaged or truncated"):
        load()
    weights.write_bytes(good)
    for change, words in (({"format": 99}, "newer"), ({"model": "CellJEPA"}, "CellJEPA")):
        model.write_text(json.dumps({**facts, **change}))
        with pytest.raises(ValueError, match=words):
            load()
    model.write_text("{")
    with pytest.raises(ValueError, match="damaged"):
        load()
    config = {**facts["config"], "encoder": {**facts["config"]["encoder"], "width": 64}}
    model.write_text(json.dumps({**facts, "config": config}))
    with pytest.raises(ValueError, match="changed by hand"):
        load()
    change_saved(folder)
    with pytest.raises(ValueError, match="do not fit"):
        load()
    for foreign in ("[]", json.dumps({"model_type": "bert"}), b"\xff\xfe"):
        model.write_bytes(foreign if isinstance(foreign, bytes) else foreign.encode())
        with pytest.raises(ValueError, match="damaged"):
            load()
    model.unlink()
    with pytest.raises(FileNotFoundError, match=r"model\.json"):
        load()


def _same_facts(one: bytes, other: bytes) -> bool:
    try:
        return json.loads(one) == json.loads(other)
    except ValueError:
        return False


def test_any_flipped_bit_is_noticed(folder):
    rng = np.random.default_rng(0)
    for name in ("model.json", "weights.safetensors"):
        good = (folder / name).read_bytes()
        for place in rng.integers(len(good), size=60):
            bad = bytearray(good)
            bad[place] ^= 1 << rng.integers(8)
            if name == "model.json" and _same_facts(bytes(bad), good):
                continue  # such as 1e-3 and 1E-3
            (folder / name).write_bytes(bad)
            with pytest.raises(ValueError, match=folder.name):
                _store.read_model(folder, "STJEPA")
        (folder / name).write_bytes(good)
    assert _store.read_model(folder, "STJEPA")[0]["model"] == "STJEPA"


def test_files_of_the_first_format_are_read(trained, folder):
    model, adata = trained
    facts = json.loads((folder / "model.json").read_text())
    old = {name: value for name, value in facts.items() if name not in ("sha256", "weights_sha256")}
    old = {name: value for name, value in old.items() if name not in ("reference", "card")}
    (folder / "model.json").write_text(json.dumps({**old, "format": 1}))
    loaded = scjepa.STJEPA.load(folder, adata.copy(), accelerator="cpu")
    np.testing.assert_array_equal(loaded.get_latent_representation(), model.get_latent_representation())


def test_loading_without_data_says_what_to_pass(folder):
    with pytest.raises(ValueError, match="Pass adata"):
        scjepa.STJEPA.load(folder)


def test_one_section_of_one_technology_is_loaded_with_a_warning(trained, folder, fresh):
    _, adata = trained
    one = fresh(adata[adata.obs["section"] == "s1"])
    del one.obs["section"], one.obs["technology"]
    with pytest.warns(UserWarning, match=r"no '(section|technology)', so all its cells are taken as one") as told:
        loaded = scjepa.STJEPA.load(folder, one, accelerator="cpu")
    assert len(told) == 2
    expected = scjepa.STJEPA.load_query_data(one, folder, accelerator="cpu").get_latent_representation()
    np.testing.assert_array_equal(loaded.get_latent_representation(), expected)


def test_what_new_data_call_otherwise_is_told_by_set_up(trained, folder, fresh):
    _, adata = trained
    expected = scjepa.STJEPA.load(folder, fresh(adata), accelerator="cpu").get_latent_representation()
    other = fresh(adata)
    other.obs = other.obs.rename(columns={"section": "slice", "technology": "assay"})
    other.obsm["xy"] = other.obsm.pop("spatial")
    with pytest.raises(KeyError, match=r"obsm\['spatial'\].*holds 'xy'.*setup_anndata\(adata, spatial_key=\.\.\.\)"):
        scjepa.STJEPA.load(folder, other, accelerator="cpu")
    keys = {"library_key": "slice", "technology_key": "assay", "spatial_key": "xy"}
    scjepa.STJEPA.setup_anndata(other, **keys)
    for found in (scjepa.STJEPA.load(folder, other), scjepa.STJEPA.load_query_data(other, folder)):
        np.testing.assert_array_equal(found.get_latent_representation(), expected)


def test_a_layer_that_new_data_lack_is_told_with_the_call_that_helps(make_tissue, make_model, tmp_path, fresh):
    adata = make_tissue()
    adata.layers["counts"] = adata.X.copy()
    setup = {"layer": "counts", "library_key": "section", "technology_key": "technology"}
    model = make_model(adata, setup)
    model.save(tmp_path / "m")
    other = fresh(adata)
    del other.layers["counts"]
    told = r"layers\['counts'\] does not exist.*setup_anndata\(adata, layer=\.\.\.\), or without a layer"
    for call in (
        lambda: scjepa.STJEPA.load(tmp_path / "m", other),
        lambda: scjepa.STJEPA.load_query_data(other, model),
        lambda: model.get_latent_representation(other),
    ):
        with pytest.raises(KeyError, match=told):
            call()
    scjepa.STJEPA.setup_anndata(other, library_key="section", technology_key="technology")
    found = scjepa.STJEPA.load(tmp_path / "m", other).get_latent_representation()
    np.testing.assert_array_equal(found, model.get_latent_representation())


def test_what_was_saved_wins_over_what_set_up_was_told_for_another_model(make_tissue, make_model, tmp_path):
    adata = make_tissue()
    adata.layers["counts"] = adata.X.copy()
    model = make_model(adata, {"layer": "counts", "library_key": "section", "technology_key": "technology"})
    expected = model.get_latent_representation()
    model.save(tmp_path / "m")
    adata.X = adata.X * 3
    make_model(adata)  # of X
    np.testing.assert_array_equal(scjepa.STJEPA.load(tmp_path / "m", adata).get_latent_representation(), expected)


def test_read_only_statistics_are_saved_without_a_warning(tmp_path):
    values = np.arange(3.0)
    values.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _store.write_model(tmp_path / "model", {"statistics": {"means": values}}, {}, overwrite=False)
    assert (tmp_path / "model").is_dir()
