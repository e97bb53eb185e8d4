"""``scjepa benchmark``: files in, tables and figures out."""

from __future__ import annotations

import pandas as pd
import pytest

from scjepa.cli import UsageError, build_parser, main
from scjepa.cli.benchmark import axes_of, method_options

QUICK = ["--tasks", "within", "--seeds", "1", "--leiden-seeds", "1", "--resolutions", "1", "--readouts", "plain"]


@pytest.fixture(scope="module")
def done(data, tmp_path_factory):
    """Compare once."""
    out = tmp_path_factory.mktemp("benchmark")
    command = [
        "benchmark",
        "--data",
        str(data / "a.h5ad"),
        str(data / "b.zarr"),
        "--label",
        "region",
        "--out",
        str(out),
    ]
    command += [*QUICK, "--methods", "neighborhood_pca", "nicheformer"]
    return main(command), out, command


def test_tables_and_figures_are_written_and_their_paths_printed(done, capsys):
    code, out, command = done
    assert code == 0
    assert main(command) == 0
    printed = capsys.readouterr()
    paths = printed.out.split()
    assert {path.rsplit("/", 1)[1] for path in paths} == {
        "results.csv",
        "runs.csv",
        "table1.csv",
        "table1.md",
        *(f"{name}_{one}_within.png" for name in ("niches", "expressed_genes") for one in "ab"),
    }
    assert all((out / path).exists() for path in paths)
    assert "6 runs, 2 of them there already" in printed.err  # those that failed are tried again
    assert "4 of 6 runs failed, see table1.md" in printed.err
    table = pd.read_csv(out / "table1.csv")
    assert table.loc[table["reason"].isna(), "nmi"].notna().all()
    assert "checkpoint" in (out / "table1.md").read_text()


def test_what_the_user_can_mend_is_one_line(done, data, tmp_path, capsys):
    _, _, command = done
    start = ["benchmark", "--data", str(data / "a.h5ad"), "--out", str(tmp_path / "o")]
    for more, code, message in (
        (["--label", "layer"], 1, "No data have the label"),
        (["--methods", "banksi"], 1, "Did you mean 'banksy'"),
        (["--tasks", "sections"], 1, "two sections or more"),
        (["--tasks", "section"], 1, "Did you mean 'sections'"),
        (["--pretrain", "c.h5ad"], 2, "--pretrain belongs to --target"),
        (["--ablate", "tokens.n_token=3"], 2, "Did you mean tokens.n_tokens"),
        (["--ablate", "n_tokens=3"], 2, "PART.OPTION"),
        (["--grid", "tokens.n_tokens=3,4"], 2, "--ablate tokens.n_tokens=3,4"),
        (["--option", "banksy"], 2, "METHOD.OPTION=VALUE"),
    ):
        assert main([*start, *more]) == code
        assert message in capsys.readouterr().err
    assert not (tmp_path / "o").exists()
    assert main([*command, "--resolutions", "0.5"]) == 1
    assert "made with other options" in capsys.readouterr().err


def test_what_is_not_given_is_as_in_python():
    options = build_parser().parse_args(["benchmark", "--data", "a.h5ad", "--out", "o"])
    given = {name for name, value in vars(options).items() if value not in (None, False)}
    assert given == {"command", "data", "out", "run", "parser"}


def test_a_command_that_there_was_names_the_one_that_is(capsys):
    assert main(["benchmark-cells", "--target", "a.h5ad"]) == 2
    assert "scjepa benchmark --target" in capsys.readouterr().err


def test_axes_are_read_with_their_types():
    assert axes_of(["tokens.n_tokens=16,32", "encoder.metatoken=true,false", "masking.ratio=0.3"], []) == {
        "tokens.n_tokens": [16, 32],
        "encoder.metatoken": [True, False],
        "masking.ratio": [0.3],
    }
    grid = axes_of([], [["tokens.values=counts,shifted_log", "tokens.ranks=counts"]])
    assert grid == {("tokens.values", "tokens.ranks"): [("counts", "counts"), ("shifted_log", "counts")]}
    with pytest.raises(UsageError, match="whole number"):
        axes_of(["tokens.n_tokens=16,many"], [])


@pytest.mark.parametrize(
    ("words", "where"),
    [
        (["benchmark", "--data", "a.h5ad", "--label", "region"], "scjepa.benchmark.run"),
        (["benchmark", "--target", "a.h5ad", "--label", "region"], "scjepa.benchmark.run_cells"),
        (["demo", "--data", "a.h5ad"], "scjepa.cli.benchmark.run_demo"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_who_stops_is_not_told_that_a_model_keeps_what_it_learned(monkeypatch, data, tmp_path, capsys, words, where):
    def stopped(*args, **options):
        raise KeyboardInterrupt("Training was interrupted after 3 steps; the model keeps what it has learned.")

    monkeypatch.setattr(where, stopped)
    words = [str(data / word) if word == "a.h5ad" else word for word in words]
    assert main([*words, "--out", str(tmp_path / "o"), "--quiet"]) == 130
    told = capsys.readouterr().err
    assert told.startswith("scjepa: interrupted; ")
    assert "keeps what it has learned" not in told


def test_options_of_methods_are_numbers_texts_and_parts():
    texts = ["stjepa.training.max_steps=20", "stjepa.training.learning_rate=1e-3", "novae_zero_shot.weights=here"]
    assert method_options(texts) == {
        "stjepa": {"training.max_steps": 20, "training.learning_rate": 0.001},
        "novae_zero_shot": {"weights": "here"},
    }


@pytest.mark.parametrize("text", ["max_epochs=50", "cellcharter.max_epochs", "cellcharter"])
def test_an_option_without_method_or_value_is_told_how_to_be_written(text):
    with pytest.raises(UsageError, match=f"METHOD.OPTION=VALUE.*found '{text}'"):
        method_options([text])
