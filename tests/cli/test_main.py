from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from anndata import AnnData

from scjepa import __version__
from scjepa._core.squidpy import graph_call
from scjepa.cli import COMMANDS, Command, UsageError, main
from scjepa.cli.program import TERMINATED

NAMES = ["info", "fit", "embed", "prepare", "niches", "predict", "annotate", "perturb", "benchmark", "demo"]


def test_the_commands_are_those_of_the_registry(capsys):
    assert [command.name for command in COMMANDS] == NAMES
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(f"\n    {name}" in shown for name in NAMES)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda c: c.name)
def test_help_tells_every_option_with_examples(command, capsys):
    assert main([command.name, "--help"]) == 0
    shown = capsys.readouterr().out
    assert "examples:" in shown
    assert all(f"  {example}" in shown for example in command.examples)
    assert all(example.startswith(f"scjepa {command.name}") for example in command.examples)
    assert "--debug" in shown


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == f"scjepa {__version__}"


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["predict"],
        ["fit"],
        ["fit", "a.h5ad"],
        ["info", "a", "--nothing"],
        ["fit", "a", "--out", "o", "--steps", "0"],
    ],
    ids=" ".join,
)
def test_a_wrong_command_line_is_exit_code_2(words, capsys):
    assert main(words) == 2
    shown = capsys.readouterr().err
    assert shown.startswith("scjepa: ")
    assert shown.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["fit", "a", "--out", "o", "--max-steps", "10"], "there is no '--max-steps'. Did you mean --steps?"),
        (["niches", "a", "--n_niches=8"], "Did you mean --n-niches?"),
        (["embed", "model", "a", "--out", "o", "--zzz"], "there is no '--zzz'. scjepa embed --help lists"),
        (["niches", "a", "--n-clusters", "8"], "Did you mean --n-niches?"),
        (["fit", "a", "--out", "o", "--sample", "s"], "there is no '--sample'. Did you mean --library-key?"),
        (["demo", "--section", "s"], "Did you mean --library-key?"),
        (["demo", "--niches", "3"], "Did you mean --n-niches?"),
        (["benchmark", "--out", "o", "--technology", "t"], "Did you mean --technology-key?"),
        (["benchmark", "--out", "o", "--section", "t"], "Did you mean --library-key?"),
        (["benchmark", "--out", "o", "--batch", "t"], "Did you mean --batch-key?"),
        (["inf", "a"], "Unknown command 'inf'. Did you mean 'info'?"),
        (["fit", "a", "--out", "o", "--preset", "dmo"], "Unknown value of --preset 'dmo'. Did you mean 'demo'?"),
        (["fit", "a"], "required: --out. scjepa fit --help lists the options."),
    ],
)
def test_an_option_that_is_not_there_is_told_with_the_nearest(words, told, capsys):
    assert main(words) == 2
    shown = " ".join(capsys.readouterr().err.split())
    assert told in shown
    assert "usage" not in shown


def command(run) -> Command:
    return Command("go", "go", "Go.", ("scjepa go",), lambda parser: None, run)


def fails_with(error: BaseException) -> Command:
    def run(options):
        raise error

    return command(run)


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (ValueError("counts\n  are negative"), 1, "scjepa: counts are negative"),
        (KeyError("no obsm 'spatial'"), 1, "scjepa: no obsm 'spatial'"),
        (KeyError("spatial"), 1, "scjepa: there is no 'spatial'; --debug tells where it was looked for"),
        (FileNotFoundError("There is no file x."), 1, "scjepa: There is no file x."),
        (OSError(28, "No space left on device"), 1, "scjepa: [Errno 28] No space left on device"),
        (BrokenPipeError(32, "Broken pipe"), 1, "scjepa: [Errno 32] Broken pipe"),  # a worker's, not stdout's
        (MemoryError("Unable to allocate 9 GiB"), 1, "scjepa: memory ran out. Unable to allocate 9 GiB"),
        (KeyboardInterrupt(), 130, "scjepa: interrupted"),
        (KeyboardInterrupt("interrupted; go on"), 130, "scjepa: interrupted; go on"),
    ],
    ids=lambda x: type(x).__name__ if isinstance(x, BaseException) else None,
)
def test_errors_are_one_line_and_their_own_exit_code(monkeypatch, capsys, error, code, line):
    monkeypatch.setattr("scjepa.cli.program.COMMANDS", (fails_with(error),))
    assert main(["go"]) == code
    streams = capsys.readouterr()
    assert streams.err == f"{line}\n"
    assert streams.out == ""


def test_wrong_usage_that_argparse_cannot_see_is_exit_code_2(monkeypatch, capsys):
    monkeypatch.setattr("scjepa.cli.program.COMMANDS", (fails_with(UsageError("Give one or the other.")),))
    assert main(["go"]) == 2
    assert capsys.readouterr().err == "scjepa: Give one or the other.\n"


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
def test_shells_can_complete_commands_and_options(shell, capsys):
    pytest.importorskip("shtab")
    assert main(["--completion", shell]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in NAMES)
    assert "library-key" in shown


def test_completion_without_shtab_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert main(["--completion", "bash"]) == 2
    assert "pip install shtab" in capsys.readouterr().err


def test_who_stops_reading_is_told_nothing(tmp_path):
    file = tmp_path / "cells.h5ad"
    AnnData(np.ones((3, 2), dtype=np.float32)).write_h5ad(file)
    reads, writes = os.pipe()
    os.close(reads)  # as `| head` does when it has seen enough
    with os.fdopen(writes, "w") as pipe:
        words = [sys.executable, "-m", "scjepa.cli", "info", file]
        run = subprocess.run(words, stdout=pipe, stderr=subprocess.PIPE, text=True)
    assert (run.returncode, run.stderr) == (141, "")


class Finalized:
    """Is told to end the program where Python drops whatever is raised."""

    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.01)


def test_a_termination_that_comes_in_a_finalizer_ends_the_program(monkeypatch, capsys):
    def work(_):
        Finalized()
        for _ in range(1000):
            time.sleep(0.01)
        raise AssertionError("it went on")

    before = sys.unraisablehook
    monkeypatch.setattr("scjepa.cli.program.COMMANDS", (command(work),))
    assert main(["go"]) == TERMINATED
    assert sys.unraisablehook is before
    assert "AssertionError" not in capsys.readouterr().err


def test_what_a_termination_made_fail_is_no_fault(monkeypatch, capsys):
    def work(_):
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(1)
        except SystemExit as stop:
            raise RuntimeError("half done") from stop

    monkeypatch.setattr("scjepa.cli.program.COMMANDS", (command(work),))
    assert main(["go"]) == TERMINATED
    assert capsys.readouterr().err == ""


def test_faults_of_the_program_keep_their_traceback(monkeypatch):
    monkeypatch.setattr("scjepa.cli.program.COMMANDS", (fails_with(RuntimeError("a fault")),))
    with pytest.raises(RuntimeError, match="a fault"):
        main(["go"])


def test_debug_shows_the_traceback_of_a_users_error(monkeypatch, capsys):
    monkeypatch.setattr("scjepa.cli.program.COMMANDS", (fails_with(ValueError("counts are negative")),))
    assert main(["go", "--debug"]) == 1
    shown = capsys.readouterr().err
    assert "Traceback" in shown
    assert shown.endswith("scjepa: counts are negative\n")


def test_warnings_are_one_line_each_and_the_filters_are_left_as_they_were(monkeypatch, capsys):
    def run(options):
        for _ in range(2):
            warnings.warn("some genes\nare unknown", UserWarning, stacklevel=1)
            warnings.warn("old", FutureWarning, stacklevel=1)

    before, show = list(warnings.filters), warnings.showwarning
    command = Command("go", "go", "Go.", ("scjepa go",), lambda parser: None, run)
    monkeypatch.setattr("scjepa.cli.program.COMMANDS", (command,))
    assert main(["go"]) == 0
    assert capsys.readouterr().err == "scjepa: warning: some genes are unknown\n"
    assert (list(warnings.filters), warnings.showwarning) == (before, show)


def test_help_loads_nothing_heavy():
    heavy = ("torch", "anndata", "scanpy", "squidpy", "scvi", "pandas", "scipy", "h5py", "zarr", "matplotlib")
    code = f"import sys, scjepa.cli as c; c.build_parser(); print([m for m in {heavy!r} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_the_installed_program_runs(tmp_path):
    program = Path(sys.executable).with_name("scjepa")
    if not program.exists():
        pytest.skip("the package is not installed with its entry point")
    run = subprocess.run([program, "info", tmp_path / "none.h5ad"], capture_output=True, text=True)
    assert (run.returncode, run.stdout) == (1, "")
    assert run.stderr == f"scjepa: There is no file {tmp_path / 'none.h5ad'}.\n"
    module = subprocess.run([sys.executable, "-m", "scjepa.cli", "--version"], capture_output=True, text=True)
    assert (module.returncode, module.stdout.strip()) == (0, f"scjepa {__version__}")


def test_messages_that_name_python_calls_are_given_the_options_that_there_are(monkeypatch, capsys):
    def run(options):
        warnings.warn("Name raw counts: setup_anndata(adata, layer='counts').", UserWarning, stacklevel=1)
        raise ValueError(f"Rebuild it: {graph_call()}. Or name another: key_added=.")

    def add_options(parser):
        parser.add_argument("--layer")
        parser.add_argument("--rebuild-graph", action="store_true")

    monkeypatch.setattr("scjepa.cli.program.COMMANDS", (Command("go", "go", "Go.", ("scjepa go",), add_options, run),))
    assert main(["go"]) == 1
    assert capsys.readouterr().err.splitlines() == [
        "scjepa: warning: Name raw counts: setup_anndata(adata, layer='counts'). On the command line: --layer.",
        f"scjepa: Rebuild it: {graph_call()}. Or name another: key_added=. On the command line: --rebuild-graph.",
    ]
