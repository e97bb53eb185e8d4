from __future__ import annotations

import argparse

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scjepa.cli import UsageError, main
from scjepa.cli.options import add_configuration, changes_of, configuration, positive, value_of
from scjepa.config import PRESETS, LeJEPAConfig


def test_changes_reach_the_configuration_with_their_types():
    config = configuration(
        "demo",
        [
            "encoder.n_layers=3",
            "training.learning_rate = 3e-4",
            "training.clip=none",
            "training.betas=0.9,0.95",
            "encoder.metatoken=false",
            "tokens.values=shifted_log",
        ],
    )
    assert config.encoder.n_layers == 3
    assert config.training.learning_rate == 3e-4
    assert config.training.clip is None
    assert config.training.betas == (0.9, 0.95)
    assert config.encoder.metatoken is False
    assert config.tokens.values == "shifted_log"
    assert config.masking == PRESETS["demo"].masking
    assert configuration("base", []) == PRESETS["base"]


def test_an_objective_is_named_by_its_part():
    parser = argparse.ArgumentParser()
    add_configuration(parser)
    options = parser.parse_args(["--objective", "lejepa", "--objective.n-views", "3"])
    assert configuration("demo", options.set).objective == LeJEPAConfig(n_views=3)


def test_every_option_of_the_presets_is_listed(capsys):
    assert main(["fit", "--list-options"]) == 0
    listed = capsys.readouterr().out
    assert f"--encoder.n-layers {PRESETS['base'].encoder.n_layers}\n" in listed
    assert "--objective.n-views -\n" in listed  # of another objective than that of the preset


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("n_layers=3", "PART.OPTION=VALUE"),
        ("encoder.n_layers", "PART.OPTION=VALUE"),
        ("encodr.n_layers=3", "Did you mean encoder.n_layers"),
        ("encoder.n_layer=3", "Did you mean encoder.n_layers"),
        ("encoder.n_layers=three", "must be a whole number"),
        ("encoder.n_layers=3.5", "must be a whole number"),
        ("training.clip=much", "must be a number"),
        ("encoder.metatoken=perhaps", "true or false"),
        ("training.betas=0.9", "2 values"),
        ("encoder.n_layers=0", "EncoderConfig.n_layers"),
        ("masking.ratio=2", "strictly between 0 and 1"),
    ],
)
def test_what_cannot_be_set_is_wrong_usage(change, message):
    with pytest.raises(UsageError, match=message):
        configuration("demo", [change])


@settings(deadline=None, max_examples=30)
@given(whole=st.integers(), real=st.floats(allow_nan=False), truth=st.booleans())
def test_values_come_back_as_they_were_written(whole, real, truth):
    assert value_of(str(whole), int) == whole
    assert value_of(str(real), float) == real
    assert value_of(str(truth), bool) is truth
    assert value_of(str(whole), int | None) == whole
    assert value_of("None", int | None) is None
    assert value_of(f"({real}, {real})", tuple[float, float]) == (real, real)


def test_the_last_of_two_changes_wins():
    assert changes_of(["encoder.width=8", "encoder.width=16", "tokens.n_tokens=4"]) == {
        "encoder": {"width": 16},
        "tokens": {"n_tokens": 4},
    }


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "many"])
def test_positive_refuses(text):
    with pytest.raises(argparse.ArgumentTypeError, match=text):
        positive(text)
    assert positive("3") == 3
