from __future__ import annotations

import json
import subprocess
import sys
import warnings
from dataclasses import dataclass, field

import pytest

from scjepa.celljepa.config import resolve_cells
from scjepa.config import PRESETS, EncoderConfig, MaskingConfig, STJEPAConfig, TokenConfig, TrainConfig
from scjepa.stjepa import OBJECTIVES, IJEPAConfig, LeJEPAConfig, NeighborhoodObjective
from scjepa.stjepa.config import ObjectiveConfig, resolve


def test_presets_hold_the_papers_values():
    paper = PRESETS["paper"]
    assert (paper.encoder.width, paper.encoder.n_layers, paper.encoder.n_heads) == (768, 5, 8)
    assert (paper.tokens.n_tokens, paper.tokens.n_neighbors, paper.masking.ratio) == (64, 10, 0.6)
    training = paper.training
    assert (training.batch_size, training.max_epochs, training.learning_rate, training.clip) == (256, 800, 6e-5, 2.0)
    assert (training.weight_decay, training.final_weight_decay) == (0.04, 0.4)
    assert (training.ema_start, training.ema_end, training.precision) == (0.995, 1.0, "bf16-mixed")
    assert paper.encoder.value == "mlp"
    assert paper.objective.cell_weight == paper.objective.variance_weight == 0
    assert PRESETS["paper_ablation"].encoder.n_layers == 3


@pytest.mark.parametrize("name", list(PRESETS))
def test_presets_survive_json_and_have_wide_heads(name):
    config = PRESETS[name]
    assert STJEPAConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert config.encoder.width // config.encoder.n_heads >= 16


def test_what_was_saved_before_an_option_was_there_takes_its_default():
    saved = PRESETS["base"].to_dict()
    for part, names in {
        "tokens": ["tokenizer"],
        "encoder": ["n_bins"],
        "objective": ["sigreg_weight", "sigreg_projections"],
    }.items():
        for name in names:
            del saved[part][name]
    assert STJEPAConfig.from_dict(saved) == PRESETS["base"]


def test_parts_are_overridden_one_by_one_by_mapping_or_dataclass():
    config = resolve("base", encoder={"n_layers": 4}, masking=MaskingConfig(ratio=0.5))
    assert config.encoder.n_layers == 4
    assert config.encoder.width == PRESETS["base"].encoder.width
    assert config.masking.ratio == 0.5
    assert resolve(config) is config or resolve(config) == config


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: MaskingConfig(ratio=(0.3, 0.6)), r"MaskingConfig.ratio must be a number, found \(0.3, 0.6\)"),
        (lambda: MaskingConfig(query_fraction=None), "query_fraction must be a number, found None"),
        (lambda: TokenConfig(n_tokens="64"), "n_tokens must be a number, found '64'"),
        (lambda: EncoderConfig(dropout=[0.1]), "dropout must be a number"),
    ],
)
def test_what_is_no_number_is_told(make, words):
    with pytest.raises(TypeError, match=words):
        make()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: TokenConfig(n_tokens=0), "n_tokens must be positive"),
        (lambda: TokenConfig(ties="random"), "order, shared"),
        (lambda: EncoderConfig(width=100, n_heads=8), "n_heads=5"),
        (lambda: EncoderConfig(width=33, n_heads=1), "even"),
        (lambda: MaskingConfig(ratio=1.0), "strictly between"),
        (lambda: MaskingConfig(query_fraction=0), "query_fraction"),
        (lambda: IJEPAConfig(token_weight=-1), "not be negative"),
        (
            lambda: IJEPAConfig(token_weight=0, cell_weight=0, neighborhood_weight=0, nearby_weight=0),
            "predicts nothing",
        ),
        (lambda: IJEPAConfig(query="name"), "gene, rank"),
        (lambda: TrainConfig(max_steps=None), "max_steps or max_epochs"),
        (lambda: TrainConfig(ema_start=1.5), r"\[0.0, 1.0\]"),
        (lambda: resolve("bsae"), "Did you mean 'base'"),
        (lambda: resolve("base", encoder={"widht": 2}), "Did you mean 'width'"),
        (lambda: resolve("base", encoders={}), "Did you mean 'encoder'"),
    ],
)
def test_wrong_values_are_told(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_wrong_type_of_part_is_told():
    with pytest.raises(TypeError, match="EncoderConfig or a mapping"):
        resolve("base", encoder=3)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"objective": "lejepa", "masking": {"query_fraction": 0.5}}, r"masking\.query_fraction does nothing"),
        ({"objective": {"nearby_weight": 0, "nearby_steps": 5}}, r"nearby_steps does nothing.*nearby_weight is 0"),
        ({"objective": {"sigreg_projections": 9}}, "sigreg_projections does nothing"),
        ({"encoder": {"n_bins": 20}}, r"encoder\.n_bins does nothing here, for encoder\.value is 'bound'"),
        ({"encoder": {"metatoken": False}, "masking": {"metatoken_dropout": 0.5}}, "metatoken_dropout does nothing"),
    ],
)
def test_options_without_effect_are_told(changes, words):
    with pytest.warns(UserWarning, match=words):
        resolve("base", **changes)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"objective": {"jepa_weight": 0, "target_norm": "batch"}}, r"objective\.target_norm does nothing"),
        ({"objective": {"temperature": 0.2}}, r"objective\.temperature does nothing.*\'supervised\'"),
        ({"finetuning": {"objective": {"similarity": 0.2}}}, r"finetuning\.objective\.similarity does nothing"),
        ({"training": {"decay": 0.5}}, r"training\.decay does nothing"),
    ],
)
def test_options_of_cells_without_effect_are_told(changes, words):
    with pytest.warns(UserWarning, match=words):
        resolve_cells("base", **changes)


def test_options_with_an_effect_and_those_set_to_0_are_not_told():
    lejepa = {"name": "lejepa", "n_views": 3}
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        resolve("base", objective=lejepa, encoder={"value": "bins", "n_bins": 9})
        resolve("base", objective={"sigreg_weight": 0.1, "sigreg_projections": 9})
        resolve_cells("base", objective={"jepa_weight": 0}, training={"schedule": "steps", "decay": 0.5})
        for name in PRESETS:
            resolve(name, training={"max_steps": 3})
    assert told == []


BAG = {
    **{"name": "ijepa", "predictor_layers": 2, "query": "gene", "target_view": "all", "target_norm": "layer"},
    **{"token_weight": 1.0, "cell_weight": 0.5, "neighborhood_weight": 1.0, "nearby_weight": 1.0, "nearby_steps": 3},
    **{"pooled": "predicted", "variance_weight": 1.0, "covariance_weight": 1.0, "sigreg_weight": 0.0},
    **{"sigreg_projections": 64, "n_views": 3, "sigreg_share": 0.1, "adversarial_weight": 0.2},
}
"""Options of both objectives, as models were saved before each had its own."""


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("ijepa", IJEPAConfig(predictor_layers=2, cell_weight=0.5, sigreg_projections=64)),
        ("lejepa", LeJEPAConfig(sigreg_projections=64, n_views=3, sigreg_share=0.1, adversarial_weight=0.2)),
    ],
)
def test_what_was_saved_when_objectives_shared_their_options_is_read(name, wanted):
    assert STJEPAConfig.from_dict({"objective": {**BAG, "name": name}}).objective == wanted
    with pytest.raises(ValueError, match="option of the objective 'ijepa'"):
        STJEPAConfig.from_dict({"objective": {"name": "lejepa", "token_weight": 1.0}})


@pytest.mark.parametrize(
    ("objective", "words"),
    [
        ({"name": "lejepa", "token_weight": 2}, "token_weight is an option of the objective 'ijepa', not of 'lejepa'"),
        ({"n_views": 3}, "n_views is an option of the objective 'lejepa', not of 'ijepa'"),
        ({"name": "lejepa", "n_view": 3}, "Did you mean 'n_views'"),
        ("lejpa", "Did you mean 'lejepa'"),
    ],
)
def test_options_of_another_objective_are_refused_with_its_name(objective, words):
    with pytest.raises(ValueError, match=words):
        resolve("base", objective=objective)


def test_an_objective_can_be_registered_and_has_options_of_its_own():
    class Mine(NeighborhoodObjective):
        """Nothing but a name."""

    @dataclass(frozen=True)
    class MineConfig(ObjectiveConfig):
        objective = Mine
        name: str = field(default="mine", init=False)
        strength: float = 2.0

    OBJECTIVES["mine"] = MineConfig
    try:
        config = resolve("base", objective={"name": "mine", "strength": 3})
        assert config.objective == MineConfig(strength=3.0)
        assert config.objective.objective_class() is Mine
        assert STJEPAConfig.from_dict(config.to_dict()) == config
    finally:
        del OBJECTIVES["mine"]


def test_configurations_are_read_without_torch():
    code = "import sys; from scjepa.config import CELL_PRESETS, PRESETS; PRESETS['base']; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"
