"""What the commands that compare methods share."""

from __future__ import annotations

import argparse

import pandas as pd
import pytest

from scjepa.cli.comparison import method_options, write
from scjepa.cli.options import Progress, UsageError


def test_options_of_methods_are_numbers_texts_and_parts():
    texts = ["stjepa.training.max_steps=20", "stjepa.training.learning_rate=1e-3", "novae_zero_shot.weights=here"]
    assert method_options(texts) == {
        "stjepa": {"training": {"max_steps": 20, "learning_rate": 0.001}},
        "novae_zero_shot": {"weights": "here"},
    }


@pytest.mark.parametrize("text", ["max_epochs=50", "cellcharter.max_epochs", "cellcharter"])
def test_an_option_without_method_or_value_is_told_how_to_be_written(text):
    with pytest.raises(UsageError, match=f"METHOD.OPTION=VALUE.*found '{text}'"):
        method_options([text])


class Found:
    """Results of two runs, of which one failed."""

    runs = pd.DataFrame({"reason": [None, "not installed"]})

    def write(self, folder):
        return [folder / "table.csv"]

    def write_figures(self, folder):
        return [folder / "map.png"]


@pytest.mark.parametrize("no_figures", [False, True])
def test_paths_are_printed_and_failures_counted(no_figures, tmp_path, capsys):
    options = argparse.Namespace(out=tmp_path, no_figures=no_figures, quiet=False)
    write(Found(), options, Progress(options), "table.md")
    out, err = capsys.readouterr()
    figures = [] if no_figures else [str(tmp_path / "figures" / "map.png")]
    assert out.split() == [str(tmp_path / "table.csv"), *figures]
    assert "done; 1 of 2 runs failed, see table.md" in err
