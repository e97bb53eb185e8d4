"""Files are there whole or not at all."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from scjepa._core import files
from scjepa._core.files import whole


def test_what_fails_leaves_the_file_as_it_was(tmp_path):
    path = tmp_path / "new" / "results.csv"
    with whole(path) as part:
        part.write_text("whole")
        assert not path.exists()
        assert part.suffix == ".csv"

    def stops() -> None:
        with whole(path) as part:
            part.write_text("ha")
            raise RuntimeError("stopped")

    with pytest.raises(RuntimeError):
        stops()
    assert path.read_text() == "whole"
    assert [file.name for file in path.parent.iterdir()] == ["results.csv"]


def test_what_is_killed_leaves_the_file_as_it_was(tmp_path):
    path = tmp_path / "results.csv"
    path.write_text("whole")
    code = f"""
import importlib.util, pathlib, time
spec = importlib.util.spec_from_file_location("files", {str(Path(files.__file__))!r})
files = importlib.util.module_from_spec(spec)
spec.loader.exec_module(files)
with files.whole(pathlib.Path({str(path)!r})) as part:
    part.write_text("ha")
    print("half", flush=True)
    time.sleep(60)
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "half\n"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert path.read_text() == "whole"
    hidden = [file.name for file in tmp_path.iterdir() if file.name != "results.csv"]
    assert all(name.startswith(".") for name in hidden)
