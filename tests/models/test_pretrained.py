"""Checkpoints that travel."""

from __future__ import annotations

import json
import sys
import types

import numpy as np
import pytest
from safetensors.torch import load_file

import scjepa
from scjepa import pretrained
from scjepa.pretrained import Card

CPU = {"accelerator": "cpu"}
CARD = {"description": "For tests.", "license": "CC0-1.0", "data": [{"name": "toy", "cells": 1200}]}


@pytest.fixture
def folder(trained, tmp_path):
    model, _ = trained
    model.save_pretrained(tmp_path / "toy", CARD)
    return tmp_path / "toy"


def test_saved_and_loaded_embeds_bit_for_bit(trained, folder, fresh):
    model, adata = trained
    loaded = scjepa.STJEPA.from_pretrained(folder, fresh(adata), **CPU)
    for scale in ("neighborhood", "cell"):
        np.testing.assert_array_equal(
            loaded.get_latent_representation(scale=scale), model.get_latent_representation(scale=scale)
        )
    assert loaded.is_trained
    assert loaded.diagnose().verdict == model.diagnose().verdict
    assert loaded.card.name == "toy"
    assert loaded.card.license == "CC0-1.0"


def test_half_precision_takes_half_and_embeds_nearly_the_same(trained, folder, tmp_path, fresh):
    model, adata = trained
    model.save_pretrained(tmp_path / "half", dtype="float16")
    loaded = scjepa.STJEPA.from_pretrained(tmp_path / "half", fresh(adata), **CPU)
    a, b = loaded.get_latent_representation(), model.get_latent_representation()
    assert not np.array_equal(a, b)
    assert np.abs(a - b).max() < 5e-3 * np.abs(b).max()
    sizes = [(f / "weights.safetensors").stat().st_size for f in (tmp_path / "half", folder)]
    assert sizes[0] < 0.6 * sizes[1]


def test_only_what_embedding_and_fine_tuning_need_is_kept(trained, folder, fresh):
    model, adata = trained
    assert sorted(p.name for p in folder.iterdir()) == ["README.md", "model.json", "weights.safetensors"]
    names = set(load_file(folder / "weights.safetensors"))
    assert names == {name for name in model.module.state_dict() if not name.startswith("context.")}
    facts = json.loads((folder / "model.json").read_text())
    assert "loss" not in facts["history"]
    loaded = scjepa.STJEPA.from_pretrained(folder, fresh(adata), **CPU)
    np.testing.assert_array_equal(
        loaded.get_latent_representation(encoder="context"), model.get_latent_representation()
    )
    loaded.train(max_steps=2, accelerator="cpu", progress_bar=False)
    assert loaded.n_steps_ == model.n_steps_ + 2


def test_a_small_model_is_small(make_tissue, make_model, tmp_path):
    adata = make_tissue(60, n_genes=2000)
    model = make_model(adata, encoder={"width": 64, "n_layers": 2, "n_heads": 4}, tokens={"n_tokens": 16})
    with pytest.warns(UserWarning, match="not trained"):
        model.save_pretrained(tmp_path / "m")
    assert sum(file.stat().st_size for file in (tmp_path / "m").iterdir()) < 1.5e6


def test_readme_reads_well(folder):
    text = (folder / "README.md").read_text()
    assert text.startswith("---\nlibrary_name")
    assert 'license: "CC0-1.0"' in text
    assert "# toy\n\nFor tests." in text
    assert 'STJEPA.from_pretrained("toy", adata)' in text
    assert "| toy | 1,200 |" in text
    assert "| n_latent | 32 |" in text
    assert "## Created" in text


def test_new_data_is_taken_in(trained, folder, fresh):
    _, adata = trained
    query = fresh(adata)
    query.var_names = ["New" if name == "Gene03" else name for name in query.var_names]
    query.obs["technology"] = "Visible"
    model = scjepa.STJEPA.from_pretrained(folder, query, freeze="encoder", **CPU)
    assert "New" in model.vocabulary
    assert model.technologies == ("A", "B", "Visible")
    assert np.isfinite(model.get_latent_representation()).all()
    model.train(max_steps=2, accelerator="cpu", progress_bar=False)
    assert model.reference.n_genes == 24


def test_a_card_follows_the_model(trained, folder, tmp_path, fresh):
    _, adata = trained
    loaded = scjepa.STJEPA.from_pretrained(folder, fresh(adata), **CPU)
    loaded.save_pretrained(tmp_path / "again")
    assert pretrained.read_card(tmp_path / "again")[0] == loaded.card
    loaded.save(tmp_path / "saved")
    assert scjepa.STJEPA.load(tmp_path / "saved", fresh(adata), **CPU).card == loaded.card


def test_a_checkpoint_can_be_loaded_as_a_saved_model_and_the_other_way_round(trained, folder, tmp_path, fresh):
    model, adata = trained
    embedded = model.get_latent_representation()
    model.save(tmp_path / "saved")
    for loaded in (
        scjepa.STJEPA.load(folder, fresh(adata), **CPU),
        scjepa.STJEPA.from_pretrained(tmp_path / "saved", fresh(adata), **CPU),
    ):
        np.testing.assert_array_equal(loaded.get_latent_representation(), embedded)


# -- refusals -----------------------------------------------------------------------------------------------------


def test_truncated_changed_newer_and_foreign_files_are_refused(trained, folder, change_saved, fresh):
    _, adata = trained
    load = lambda: scjepa.STJEPA.from_pretrained(folder, fresh(adata), **CPU)  # noqa: E731
    weights, model = folder / "weights.safetensors", folder / "model.json"
    good, facts = weights.read_bytes(), model.read_bytes()
    weights.write_bytes(good[:-100])
    with pytest.raises(ValueError, match="damaged or truncated"):
        load()
    flipped = bytearray(good)
    flipped[-50] ^= 8
    weights.write_bytes(flipped)
    with pytest.raises(ValueError, match="checksum"):
        load()
    weights.write_bytes(good)
    model.write_bytes(facts[:-100])
    with pytest.raises(ValueError, match="damaged"):
        load()
    model.write_bytes(facts.replace(b"Gene03", b"Gene99"))
    with pytest.raises(ValueError, match="checksum"):
        load()
    model.write_bytes(facts)
    change_saved(folder, format=99, scjepa_version="9.0")
    with pytest.raises(ValueError, match=r"newer scjepa \(9.0\)"):
        load()
    change_saved(folder, format=2, model="CellJEPA")
    with pytest.raises(ValueError, match="'CellJEPA' model"):
        load()
    weights.unlink()
    with pytest.raises(FileNotFoundError, match=r"weights\.safetensors"):
        load()


def test_existing_folders_are_kept(trained, folder):
    model, _ = trained
    with pytest.raises(FileExistsError, match="overwrite=True"):
        model.save_pretrained(folder)
    model.save_pretrained(folder, {"description": "Second."}, overwrite=True)
    assert pretrained.read_card(folder)[0].description == "Second."


def test_cards_are_checked(trained, tmp_path):
    model, _ = trained
    with pytest.raises(ValueError, match="Did you mean 'license'"):
        model.save_pretrained(tmp_path / "m", {"licence": "CC0"})
    with pytest.raises(TypeError, match=r"Card\.data must be a list of mappings"):
        Card("x", data={"name": "V1"})
    with pytest.raises(TypeError, match=r"Card\.license must be text"):
        Card("x", license=3)
    with pytest.raises(ValueError, match="name is empty"):
        Card(" ")
    with pytest.raises(TypeError, match="mapping of its fields"):
        model.save_pretrained(tmp_path / "m", "a card")
    with pytest.raises(ValueError, match="Did you mean 'float16'"):
        model.save_pretrained(tmp_path / "m", dtype="float61")
    assert not (tmp_path / "m").exists()


def test_weights_too_large_for_half_precision_are_refused(make_tissue, make_model, tmp_path):
    import torch

    model = make_model(make_tissue())
    with torch.no_grad():
        model.module.target.embedding.gene.weight[0, 0] = 1e6
    with pytest.warns(UserWarning, match="not trained"), pytest.raises(ValueError, match=r"gene\.weight are too large"):
        model.save_pretrained(tmp_path / "m", dtype="float16")
    assert not (tmp_path / "m").exists()


# -- names --------------------------------------------------------------------------------------------------------


@pytest.fixture
def shipped(folder, monkeypatch):
    monkeypatch.setattr(pretrained, "SHIPPED", folder.parent)
    return folder


def test_shipped_checkpoints_are_found_by_name(trained, shipped, fresh):
    model, adata = trained
    assert pretrained.locate("toy") == shipped
    table = pretrained.available()
    assert table.index.tolist() == ["toy"]
    assert table.loc["toy", "genes"] == 24
    assert table.loc["toy", "technologies"] == "A, B"
    loaded = scjepa.STJEPA.from_pretrained("toy", fresh(adata), **CPU)
    np.testing.assert_array_equal(loaded.get_latent_representation(), model.get_latent_representation())


def test_every_shipped_checkpoint_has_a_card():
    for name, folder in pretrained.shipped().items():
        card, facts = pretrained.read_card(folder)
        assert card.name == name
        assert card.license
        assert card.data
        assert facts["format"] <= 2


def test_unknown_names_say_what_there_is(shipped, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="Did you mean 'toy'"):
        pretrained.locate("toyy")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"a folder without model\.json"):
        pretrained.locate("empty")
    (tmp_path / "file").write_text("")
    with pytest.raises(FileNotFoundError, match="a file, not a folder"):
        pretrained.locate("file")
    with pytest.raises(FileNotFoundError, match="no folder"):
        pretrained.locate("a/b/c")


def _hub(monkeypatch, download):
    """Put a stand-in for the hub's client in place."""
    module = types.ModuleType("huggingface_hub")
    module.snapshot_download = download
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)


def test_names_with_an_organization_come_from_the_hub(trained, folder, monkeypatch, fresh):
    model, adata = trained
    asked = {}

    def download(repo_id, allow_patterns):
        asked.update(repo_id=repo_id, allow_patterns=allow_patterns)
        return str(folder)

    _hub(monkeypatch, download)
    loaded = scjepa.STJEPA.from_pretrained("lab/brain", fresh(adata), **CPU)
    np.testing.assert_array_equal(loaded.get_latent_representation(), model.get_latent_representation())
    assert asked == {"repo_id": "lab/brain", "allow_patterns": ["model.json", "weights.safetensors", "README.md"]}


def test_a_hub_that_cannot_be_reached_says_what_to_do(monkeypatch):
    def download(**kwargs):
        raise ConnectionError("no route to host\nand more")

    _hub(monkeypatch, download)
    with pytest.raises(FileNotFoundError, match=r"ConnectionError: no route to host\).*name its folder"):
        pretrained.locate("lab/brain")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match="pip install huggingface_hub"):
        pretrained.locate("lab/brain")


def test_a_folder_without_a_card_has_none_to_read(trained, tmp_path):
    model, _ = trained
    model.save(tmp_path / "m")
    with pytest.raises(ValueError, match="carries no card"):
        pretrained.read_card(tmp_path / "m")
    with pytest.raises(FileNotFoundError, match=r"holds no model\.json"):
        pretrained.read_card(tmp_path)


def test_the_genes_of_a_saved_model_rename_those_of_other_versions(make_tissue, make_model, tmp_path, fresh):
    adata = make_tissue()
    adata.var_names = [f"ENSG{i:011d}.{i % 5}" for i in range(adata.n_vars)]
    make_model(adata).save(tmp_path / "m")
    other = fresh(adata)
    other.var_names = other.var_names.str.replace(r"\.\d+$", "", regex=True)
    with pytest.raises(ValueError, match=r"renamed\(adata\.var_names\).*scjepa\.pretrained\.vocabulary\(folder\)"):
        scjepa.STJEPA.load(tmp_path / "m", other)
    other.var_names = scjepa.pretrained.vocabulary(tmp_path / "m").renamed(other.var_names)
    assert list(other.var_names) == list(adata.var_names)
    scjepa.STJEPA.load(tmp_path / "m", other)
    (tmp_path / "m" / "model.json").write_text("{}")
    with pytest.raises(ValueError, match="damaged"):
        scjepa.pretrained.vocabulary(tmp_path / "m")
