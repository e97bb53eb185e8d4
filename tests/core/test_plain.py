from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from scjepa._core.plain import plain, seed_of, whole
from scjepa.benchmark import CellScoring, CellTraining, Scoring
from scjepa.celljepa.config import resolve_cells
from scjepa.config import (
    CellEncoderConfig,
    CellJEPAConfig,
    CellMaskingConfig,
    CellTrainConfig,
    EncoderConfig,
    STJEPAConfig,
    TokenConfig,
    TrainConfig,
)
from scjepa.perturbation import PerturbationSplit
from scjepa.pretrained import Card
from scjepa.stjepa import IJEPAConfig
from scjepa.stjepa.config import resolve
from scjepa.training import RunOptions


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.int64(3), 3),
        (np.float32(0.5), 0.5),
        (np.longdouble(0.5), 0.5),
        (np.bool_(True), True),
        (np.str_("a"), "a"),
        (np.array(7), 7),
        (np.arange(3), [0, 1, 2]),
        (torch.tensor(2), 2),
        ({"a": (np.int32(1), [np.float64(0.25)])}, {"a": (1, [0.25])}),
        (np.array([np.int64(1), "a"], dtype=object), [1, "a"]),
    ],
)
def test_scalars_of_other_packages_become_pythons(value, expected):
    found = plain(value, arrays=True)
    assert found == expected
    assert type(found) is type(expected)
    assert json.loads(json.dumps(found)) is not None


def test_what_is_no_number_stays_what_it_is():
    something = object()
    assert plain(something) is something
    assert plain(None) is None
    for numbers in (torch.zeros(3), np.zeros(3)):
        assert plain(numbers) is numbers
        assert plain({"a": numbers})["a"] is numbers


def test_seeds_are_whole_numbers_of_0_or_more():
    assert type(seed_of(np.int64(4))) is int
    assert seed_of(4.0) == 4
    for wrong in (-1, 0.5, True, "1", None, np.float32("nan")):
        with pytest.raises(ValueError, match="seed must be a whole number of at least 0"):
            seed_of(wrong)
    with pytest.raises(ValueError, match=r"n must be a whole number, found 1\.5"):
        whole("n", 1.5)


SWEPT = {
    "tokens": {"n_tokens": np.int64(20), "values": np.str_("counts")},
    "encoder": {"n_layers": np.logspace(0, 1, 2)[0], "metatoken": np.bool_(False), "dropout": np.float32(0)},
    "training": {"learning_rate": np.float32(1e-3), "betas": np.array([0.9, 0.99]), "max_steps": np.int32(5)},
}


def test_options_that_are_numpys_are_saved_as_the_numbers_they_are():
    config = resolve("demo", **SWEPT)
    assert type(config.encoder.n_layers) is int
    assert config.encoder.metatoken is False
    assert config.training.betas == (0.9, 0.99)
    assert STJEPAConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    cells = resolve_cells(
        "demo",
        tokens={"n_bins": np.int16(31), "kept": np.str_("top")},
        masking={"ratio": np.linspace(0.2, 0.4, 2)},
        perturbation={"from_control": np.bool_(True), "delta_weight": np.float16(0.5)},
        finetuning={"training": {"max_epochs": np.uint8(3)}},
    )
    assert cells.masking.ratio == (0.2, 0.4)
    assert CellJEPAConfig.from_dict(json.loads(json.dumps(cells.to_dict()))) == cells


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: TokenConfig(n_tokens=20.5), "TokenConfig.n_tokens must be a whole number, found 20.5"),
        (lambda: EncoderConfig(metatoken="no"), "EncoderConfig.metatoken must be True or False, found 'no'"),
        (lambda: IJEPAConfig(token_weight="1"), "IJEPAConfig.token_weight must be a number, found '1'"),
        (lambda: TrainConfig(learning_rate=np.float32("nan")), "learning_rate must be a number, found"),
        (lambda: TrainConfig(batches=3), "TrainConfig.batches must be text, found 3"),
        (lambda: TrainConfig(betas=("a", 1)), "TrainConfig.betas must be a number, found 'a'"),
        (lambda: CellEncoderConfig(width=[64]), r"CellEncoderConfig.width must be a number, found \[64\]"),
        (lambda: CellTrainConfig(decay=None), "CellTrainConfig.decay must be a number, found None"),
        (lambda: CellMaskingConfig(ratio="0.3"), "CellMaskingConfig.ratio"),
        (lambda: RunOptions(checkpoint_every=2.5), "RunOptions.checkpoint_every must be a whole number"),
    ],
)
def test_values_of_another_type_are_refused_by_name(make, words):
    with pytest.raises(TypeError, match=words):
        make()


def test_all_that_is_kept_of_a_run_can_be_written_as_json():
    scoring = Scoring(resolutions=np.linspace(0.5, 1, 2), leiden_seeds=np.int64(2), min_share=np.float32(0.5))
    cells = CellScoring(resolutions=np.arange(1, 3), fractions=np.array([0.5]), split_seed=np.int64(1))
    training = CellTraining(max_steps=np.int64(5), changes={"tokens": {"n_tokens": np.int64(8)}})
    split = PerturbationSplit(train=("A", "B"), options={"seed": np.int64(1), "share": np.float32(0.5)})
    card = Card(name="a", scores=[{"nmi": np.float32(0.5)}])
    for kept in (vars(scoring), vars(cells), vars(training), split.to_dict(), card.to_dict()):
        json.dumps(kept)
    assert replace(training, max_steps=6.0).max_steps == 6
