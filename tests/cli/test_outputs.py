from __future__ import annotations

from pathlib import Path

import pytest

from scjepa._core.files import whole
from scjepa._core.stored import H5AD, SPATIALDATA, ZARR, DataFile, is_input, kind_at
from scjepa.cli import UsageError
from scjepa.cli.io import plan

A, B = DataFile(Path("in/a.h5ad"), H5AD, "a"), DataFile(Path("in/b.zarr"), ZARR, "b")
S = DataFile(Path("in/s.zarr"), SPATIALDATA, "s", "table")


def test_a_draft_gets_its_name_only_at_the_end(tmp_path):
    path = tmp_path / "new" / "result.csv"
    with whole(path) as draft:
        assert draft.parent == path.parent
        assert draft.suffix == ".csv"
        draft.write_text("all of it")
        assert not path.exists()
    assert path.read_text() == "all of it"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("stop", [ValueError, KeyboardInterrupt, SystemExit])
def test_a_failure_leaves_what_was_there(tmp_path, stop):
    path = tmp_path / "result.csv"
    path.write_text("before")

    def write():
        with whole(path) as draft:
            draft.write_text("hal")
            raise stop

    with pytest.raises(stop):
        write()
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_folders_are_replaced_as_a_whole(tmp_path):
    path = tmp_path / "store.zarr"
    for content in ("old", "new"):
        with whole(path) as draft:
            draft.mkdir()
            (draft / content).write_text(content)
    assert [p.name for p in path.iterdir()] == ["new"]
    assert list(tmp_path.iterdir()) == [path]


def test_results_go_to_a_file_a_folder_or_the_inputs(tmp_path):
    out = tmp_path / "out"
    assert plan([A], out / "x.h5ad", False) == [out / "x.h5ad"]
    assert plan([A, B, S], out, False) == [out / "a.h5ad", out / "b.zarr", out / "s.zarr"]
    assert plan([A, S], out, False, ".h5ad") == [out / "a.h5ad", out / "s.h5ad"]
    assert plan([A, B], None, True) == [A.path, B.path]
    assert plan([A], out / "x.npy", False, tables=(".npy", ".csv")) == [out / "x.npy"]
    (tmp_path / "results.v1").mkdir()
    assert plan([A], tmp_path / "results.v1", False) == [tmp_path / "results.v1" / "a.h5ad"]
    (tmp_path / "folder.zarr").mkdir()
    assert plan([B], tmp_path / "folder.zarr", False) == [tmp_path / "folder.zarr" / "b.zarr"]


@pytest.mark.parametrize(
    ("files", "out", "message"),
    [
        ([A], None, "--out, or add them"),
        ([A, B], "x.h5ad", "one file, and there are 2 inputs"),
        ([A], "x.h5", r"files end in \.h5ad, \.zarr"),
        ([A], "x.npy", "files end in"),
    ],
)
def test_what_cannot_be_written_is_wrong_usage(tmp_path, files, out, message):
    with pytest.raises(UsageError, match=message):
        plan(files, None if out is None else tmp_path / out, False)


def test_formats_that_contradict_each_other_are_wrong_usage(tmp_path):
    with pytest.raises(UsageError, match="contradict"):
        plan([A], tmp_path / "x.h5ad", False, ".csv", tables=(".npy", ".csv"))
    with pytest.raises(UsageError, match="--format goes with --out"):
        plan([A], None, True, ".csv", tables=(".npy", ".csv"))


def test_nothing_is_replaced_unasked(tmp_path):
    (tmp_path / "a.h5ad").write_text("mine")
    for out in (tmp_path, tmp_path / "a.h5ad"):
        with pytest.raises(FileExistsError, match=r"a\.h5ad exists\. Pass --overwrite"):
            plan([A], out, False)
        assert plan([A], out, True) == [tmp_path / "a.h5ad"]
    with pytest.raises(FileExistsError, match="a file, not a folder"):
        plan([A, B], (tmp_path / "a.h5ad").rename(tmp_path / "plain"), False)


def test_kinds_of_results(tmp_path):
    assert kind_at(Path("x.h5ad"), S) == H5AD
    assert kind_at(Path("x.zarr"), S) == SPATIALDATA
    assert kind_at(Path("x.zarr"), A) == ZARR
    assert kind_at(Path("x.h5ad"), B) == H5AD
    (tmp_path / "a.h5ad").write_text("")
    file = DataFile(tmp_path / "a.h5ad", H5AD, "a")
    assert is_input(tmp_path / "." / "a.h5ad", file)
    assert not is_input(tmp_path / "b.h5ad", file)
