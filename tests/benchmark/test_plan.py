"""Which methods take part, and the levels of an ablation."""

from __future__ import annotations

import numpy as np
import pytest
from anndata import AnnData

from scjepa.benchmark import METHODS
from scjepa.benchmark.suites.section_models import ablation, entries_of


def names(entries) -> list[tuple[str, str, str]]:
    return [(entry.name, entry.settings, entry.configuration) for entry in entries]


def test_all_takes_every_method_in_every_setting():
    found = entries_of("all")
    expected = {(name, s) for name, method in METHODS.items() if name != "precomputed" for s in method.settings}
    assert {(entry.name, entry.settings) for entry in found} == expected


def test_names_groups_functions_and_options_go_together():
    def mine(adata):
        return adata.X

    found = entries_of({"mine": mine, "controls": None, "cellcharter": {"max_epochs": 5}}, preset="demo")
    assert names(found)[0] == ("mine", "own", "-")
    assert ("untrained", "same graph", "demo") in names(found)
    assert ("neighborhood_pca", "same graph", "-") in names(found)
    assert ("cellcharter", "tutorial", "max_epochs=5") in names(found)
    assert names(entries_of(["stjepa", "stjepa", "controls"])) == names(entries_of(["stjepa", "controls"]))


def test_the_linear_method_is_a_control():
    assert ("linear", "same graph", "-") in names(entries_of("controls"))
    (entry,) = entries_of("linear", options={"linear": {"n_rings": 2}})
    assert entry.configuration == "n_rings=2"
    assert not entry.method.seeded


def test_options_for_all_calls_are_told_in_the_configuration_save_those_without_influence():
    changes = {"stjepa": {"training": {"max_steps": 5}, "accelerator": "cpu"}}
    (entry,) = entries_of("stjepa", preset="demo", options=changes)
    assert entry.configuration == "demo, training.max_steps=5"
    assert entry.options["accelerator"] == "cpu"


def test_a_method_takes_part_in_one_of_its_settings_where_one_is_named():
    tutorial, same = entries_of("novae", options={"novae": {"max_epochs": 2}})
    assert (tutorial.settings, same.settings) == ("tutorial", "same graph")
    assert entries_of("novae", options={"novae": {"max_epochs": 2, "settings": "same graph"}}) == [same]


def test_a_function_is_given_what_it_has_parameters_for():
    seen = {}

    def mine(adata, seed, genes):
        seen.update(seed=seed, genes=genes)
        return np.ones((3, 2))

    (entry,) = entries_of({"mine": mine})
    assert entry.method.seeded
    assert entry.method.options == ("genes",)
    cells = AnnData(np.ones((3, 1)))
    assert entry.method.run(cells, seed=4, n_niches=3, genes=["a"])["embedding"].shape == (3, 2)
    assert seen == {"seed": 4, "genes": ["a"]}
    (entry,) = entries_of({"clusters": lambda adata: np.array(["x", "y"])})
    assert not entry.method.seeded
    assert list(entry.method.run(cells, seed=0, n_niches=None)["clusters"]) == ["x", "y"]


@pytest.mark.parametrize(
    ("methods", "options", "error", "message"),
    [
        ("stjep", None, ValueError, "Did you mean 'stjepa'"),
        ([], None, ValueError, "Name a method"),
        ({"mine": 3}, None, TypeError, "is a int"),
        (len, None, TypeError, r"methods has the function len .*methods=.'mine': len."),
        (["stjepa", len], None, TypeError, r"methods=.'mine': len."),
        (["stjepa", 3], None, TypeError, "methods has 3, a int; give names"),
        (None, None, TypeError, "a NoneType; give names"),
        ({"stjepa": lambda adata: adata.X}, None, ValueError, "another name"),
        ("banksy", {"banksi": {}}, ValueError, "Did you mean 'banksy'"),
        ("banksy", {"banksy": {"lambda": 1}}, ValueError, "Unknown option of 'banksy'"),
        ("banksy", {"banksy": {"settings": "graph"}}, ValueError, "Unknown settings of 'banksy' 'graph'"),
        ("stjepa", {"stjepa": {"settings": "tutorial"}}, ValueError, "Known: same graph"),
        ("stjepa", {"stjepa": {"tokens": {"n_tokens": -1}}}, ValueError, "n_tokens must be positive"),
    ],
)
def test_what_cannot_take_part_is_told_before_anything_runs(methods, options, error, message):
    with pytest.raises(error, match=message):
        entries_of(methods, options=options)


def test_axes_change_one_thing_at_a_time_and_the_default_is_run_once():
    entries, levels = ablation(
        entries_of(["stjepa", "neighborhood_pca"], preset="demo"),
        {"tokens.n_tokens": [16, 32], "masking.ratio": [0.3, 0.6, 0.9]},
    )
    assert [entry.configuration for entry in entries] == [
        "demo",
        "-",
        "demo, tokens.n_tokens=32",
        "demo, masking.ratio=0.3",
        "demo, masking.ratio=0.9",
    ]
    assert [(level.axis, level.value, level.default) for level in levels] == [
        ("tokens.n_tokens", "16", True),
        ("tokens.n_tokens", "32", False),
        ("masking.ratio", "0.3", False),
        ("masking.ratio", "0.6", True),
        ("masking.ratio", "0.9", False),
    ]
    assert {level.configuration for level in levels if level.default} == {"demo"}
    assert entries[2].options == {"preset": "demo", "tokens": {"n_tokens": 32}}


def test_the_default_is_a_level_of_every_axis_named_or_not():
    axes = {"masking.ratio": [0.3], ("tokens.tokenizer", "tokens.n_tokens"): [("neighborhood", 64)]}
    entries, levels = ablation(entries_of("stjepa", preset="demo"), axes)
    assert [(level.value, level.default) for level in levels] == [
        ("0.6", True),
        ("0.3", False),
        ("graph × 16", True),
        ("neighborhood × 64", False),
    ]
    assert len(entries) == 3  # the default is run once


def test_a_grid_is_an_axis_of_several_options():
    axes = {("tokens.values", "tokens.ranks"): [("counts", "auto"), ("shifted_log", "counts")]}
    entries, levels = ablation(entries_of("stjepa", preset="demo"), axes)
    assert [level.value for level in levels] == ["counts × auto", "shifted_log × counts"]
    assert levels[0].default
    assert entries[1].options["tokens"] == {"values": "shifted_log", "ranks": "counts"}


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ({"n_tokens": [16]}, "PART.OPTION"),
        ({"tokens.n_token": [16]}, "Did you mean 'n_tokens'"),
        ({"masking.ratio": [1.5]}, "strictly between 0 and 1"),
        ({("tokens.values", "tokens.ranks"): [("counts",)]}, "needs 2 values"),
        ({("tokens.values", "tokens.ranks"): ["counts"]}, "needs 2 values each, found 'counts'"),
        ({("tokens.n_tokens", "masking.ratio"): [16, 0.3]}, "needs 2 values each, found 16"),
    ],
)
def test_an_axis_that_cannot_be_is_told_before_anything_runs(axes, message):
    with pytest.raises(ValueError, match=message):
        ablation(entries_of("stjepa"), axes)


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ({"tokens.n_tokens": 16}, r"'tokens.n_tokens' needs a list of values, found 16: .*\[16\]"),
        ({"encoder.rank": "none"}, r"needs a list of values, found 'none': .*\['none'\]"),
        (["tokens.n_tokens"], "axes is a list; give values by option"),
    ],
)
def test_an_axis_without_a_list_is_told(axes, message):
    with pytest.raises(TypeError, match=message):
        ablation(entries_of("stjepa"), axes)


def test_axes_need_st_jepa():
    with pytest.raises(ValueError, match="name it among the methods"):
        ablation(entries_of("neighborhood_pca"), {"tokens.n_tokens": [16]})


def test_the_untrained_encoder_is_changed_with_st_jepa_in_what_it_reads():
    entries, levels = ablation(
        entries_of(["stjepa", "untrained"], preset="demo", options={"stjepa": {"training": {"max_steps": 5}}}),
        {
            "encoder.rank": ["sinusoidal", "none"],
            "masking.ratio": [0.3],
            ("encoder.value", "training.batches"): [("mlp", "mixed")],
        },
    )
    assert [(level.value, level.configuration, level.untrained) for level in levels] == [
        ("sinusoidal", "demo, training.max_steps=5", "demo"),
        ("none", "demo, training.max_steps=5, encoder.rank=none", "demo, encoder.rank=none"),
        ("0.6", "demo, training.max_steps=5", "demo"),
        ("0.3", "demo, training.max_steps=5, masking.ratio=0.3", "demo"),
        ("bound × section", "demo, training.max_steps=5", "demo"),
        (
            "mlp × mixed",
            "demo, training.max_steps=5, encoder.value=mlp, training.batches=mixed",
            "demo, encoder.value=mlp",
        ),
    ]
    changed = {entry.configuration: entry.options for entry in entries if entry.name == "untrained"}
    assert changed == {
        "demo": {"preset": "demo"},
        "demo, encoder.rank=none": {"preset": "demo", "encoder": {"rank": "none"}},
        "demo, encoder.value=mlp": {"preset": "demo", "encoder": {"value": "mlp"}},
    }


def test_options_of_a_method_that_takes_no_part_are_warned_of():
    with pytest.warns(UserWarning, match="options has some for 'novae', which takes no part"):
        entries_of("untrained", options={"novae": {"max_epochs": 2}})


def test_values_of_axes_that_are_numpys_are_the_same_levels():
    swept, plain = {"masking.ratio": np.linspace(0.3, 0.6, 2)}, {"masking.ratio": [0.3, 0.6]}
    entries = entries_of("stjepa", preset="demo")
    assert ablation(entries, swept) == ablation(entries, plain)
