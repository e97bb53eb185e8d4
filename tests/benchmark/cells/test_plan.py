"""Which methods take part, and what they are called."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from scjepa.benchmark import CellTraining
from scjepa.benchmark.suites.cell_models import entries_of, told
from scjepa.benchmark.suites.cell_tasks import chosen_tasks
from scjepa.config import CELL_PRESETS


def _by_name(*args, **kwargs):
    return {entry.name: entry for entry in entries_of(*args, **kwargs)}


def test_reconstruction_only_is_celljepa_with_one_weight_less():
    changes = {"encoder": {"width": 32}, "objective": {"target_norm": "batch"}}
    found = _by_name("models", CellTraining("demo", changes, max_steps=7))
    ours, plain = found["celljepa"].config, found["reconstruction_only"].config
    assert plain == replace(ours, objective=replace(ours.objective, jepa_weight=0.0))
    assert ours.encoder.width == 32
    assert ours.objective.target_norm == "batch"
    assert found["untrained"].config == ours
    assert found["modules"].config == replace(
        CELL_PRESETS["modules"], training=replace(CELL_PRESETS["modules"].training, max_steps=7)
    )
    assert ours.training.max_steps == 7


def test_lengths_replace_the_presets_own():
    found = _by_name("celljepa", CellTraining("paper", max_steps=5, finetune_epochs=3))["celljepa"].config
    assert (found.training.max_steps, found.training.max_epochs) == (5, None)
    assert found.finetuning.training.max_epochs == 3


def test_options_of_a_method_may_be_dotted():
    options = {"reconstruction_only": {"training.learning_rate": 1e-3}, "modules": {"n_modules": 5}}
    found = _by_name(["celljepa", "reconstruction_only", "modules"], options=options)
    assert found["reconstruction_only"].config.training.learning_rate == 1e-3
    assert found["celljepa"].config == CELL_PRESETS["demo"]
    assert found["modules"].options == {"n_modules": 5}


def test_a_configuration_is_told_by_what_differs_from_the_nearest_preset():
    options = {"scvi": {"n_genes": 5}}
    found = _by_name(["celljepa", "untrained", "scvi"], CellTraining("base", max_steps=20), options)
    ours = found["celljepa"]
    assert ours.configuration_of("zero_shot") == "base, training.max_steps=20"
    assert found["untrained"].configuration_of("zero_shot") == "base"
    assert found["scvi"].configuration_of("zero_shot") == "n_genes=5"
    assert told(CELL_PRESETS["modules"], ("tokens", "encoder")) == "modules"
    tuned = _by_name("celljepa", CellTraining("base", max_steps=20, finetune_epochs=2))["celljepa"]
    assert tuned.code_of("zero_shot") == ours.code_of("zero_shot")
    assert tuned.code_of("finetune") != ours.code_of("finetune")
    assert "finetuning.training.max_epochs=2" in tuned.configuration_of("finetune")


def test_tasks_come_in_order_and_batches_where_there_are_some():
    assert chosen_tasks("auto", False) == ["zero_shot", "dropout", "finetune"]
    assert chosen_tasks("auto", True) == ["zero_shot", "dropout", "batches", "finetune"]
    assert chosen_tasks(["finetune", "zero_shot"], False) == ["zero_shot", "finetune"]
    with pytest.raises(ValueError, match="Name a task"):
        chosen_tasks([], False)


def test_options_that_are_numpys_are_the_same_configuration():
    options = {
        "modules": {"n_modules": np.int64(5), "training.max_steps": np.int32(7), "masking.ratio": np.float64(0.5)}
    }
    plain = {"modules": {"n_modules": 5, "training.max_steps": 7, "masking.ratio": 0.5}}
    one, other = (_by_name("modules", options=each)["modules"] for each in (options, plain))
    assert one == other
    assert one.configuration_of("zero_shot") == other.configuration_of("zero_shot")


def test_another_content_of_a_file_is_another_configuration(tmp_path):
    file, codes = tmp_path / "modules.gmt", []
    for genes in ("A\tB\tC", "A\tB\tD"):
        file.write_text(f"one\t-\t{genes}\ntwo\t-\tE\tF\tG\n")
        codes.append(_by_name("modules", options={"modules": {"modules": file}})["modules"].code_of("zero_shot"))
    assert codes[0] != codes[1]
