"""Tables on disk: whole, the right ones, and read as they were written."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from safetensors.numpy import save_file
from scipy import sparse

from scjepa._core.files import digest
from scjepa.tokens import NeighborTable, TokenConfig, TokenTable, build_token_table
from scjepa.tokens import table as store

MARKS = {"counts": "abc", "n_tokens": 4}


def make_table(ties: str = "order", scale: float = 1.0, seed: int = 0) -> TokenTable:
    counts = np.random.default_rng(seed).poisson(1.0, (40, 9)) * scale
    return build_token_table(sparse.csr_matrix(counts), np.arange(9), 9, TokenConfig(n_tokens=4, ties=ties))


def assert_same(one: TokenTable, other: TokenTable) -> None:
    for name in ("offsets", "genes", "values", "n_expressed", "ranks"):
        a, b = getattr(one, name), getattr(other, name)
        assert (a is None) == (b is None), name
        if a is not None:
            assert a.dtype == b.dtype
            np.testing.assert_array_equal(a, b)
    assert one.n_vocabulary == other.n_vocabulary


@pytest.fixture
def file(tmp_path):
    """Return a file that holds a table."""
    make_table().save(tmp_path / "cache" / "t", MARKS)
    return tmp_path / "cache" / "t"


@pytest.mark.parametrize("mmap", [True, False])
@pytest.mark.parametrize("ties", ["order", "shared"])
def test_a_table_comes_back_as_it_was(tmp_path, mmap, ties):
    table = make_table(ties)
    table.save(tmp_path / "t")
    again = TokenTable.load(tmp_path / "t", mmap=mmap)
    assert_same(table, again)
    assert isinstance(again.genes, np.memmap) is mmap
    assert again.nbytes == table.nbytes


@pytest.mark.filterwarnings("ignore:.*not whole numbers")
def test_values_that_are_no_counts_come_back_too(tmp_path):
    table = make_table(scale=0.3)
    table.save(tmp_path / "t")
    assert_same(table, TokenTable.load(tmp_path / "t"))


def test_neighbors_come_back_as_they_were(tmp_path):
    table = NeighborTable(np.array([[1, -1], [0, 2], [1, 0]], dtype=np.int32))
    table.save(tmp_path / "n", MARKS)
    again = NeighborTable.load(tmp_path / "n", fingerprint=MARKS)
    np.testing.assert_array_equal(again.index, table.index)
    assert (again.index.dtype, again.nbytes, again.short) == (np.int32, 24, 1)


def test_an_empty_array_comes_back(tmp_path):
    table = NeighborTable(np.empty((0, 3), dtype=np.int32))
    table.save(tmp_path / "n")
    assert NeighborTable.load(tmp_path / "n").index.shape == (0, 3)


def test_what_is_done_to_a_mapped_table_stays_in_this_process(file):
    table = TokenTable.load(file)
    first = int(table.genes[0])
    table.genes[0] = first + 1
    assert int(TokenTable.load(file).genes[0]) == first


def test_the_fingerprint_is_compared(file):
    assert TokenTable.load(file, fingerprint=MARKS).n_cells == 40
    assert TokenTable.load(file, fingerprint={"n_tokens": 4}).n_cells == 40
    with pytest.raises(ValueError, match=r"its counts is 'abc', expected 'abd'.*delete this one and run again"):
        TokenTable.load(file, fingerprint={**MARKS, "counts": "abd"})
    with pytest.raises(ValueError, match="its panel is None"):
        TokenTable.load(file, fingerprint={**MARKS, "panel": "x"})


@pytest.mark.parametrize("mmap", [True, False])
def test_damaged_and_truncated_files_are_refused(file, mmap):
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"damaged.*Delete the file and run again"):
        TokenTable.load(file, mmap=mmap)
    for damaged in (content[:-4], content[:30], b"", b"{}", b"not a table" * 9):
        file.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"damaged or truncated.*Delete the file"):
            TokenTable.load(file, mmap=mmap)


def test_foreign_and_newer_files_are_refused(file, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="holds a table of tokens, not of neighbors"):
        NeighborTable.load(file)
    save_file({"genes": np.zeros(3, np.int16)}, tmp_path / "mine")
    with pytest.raises(ValueError, match="not a table that scjepa wrote"):
        TokenTable.load(tmp_path / "mine")
    with pytest.raises(ValueError, match="not a table that scjepa wrote"):
        make_table().save(tmp_path / "mine")
    with pytest.raises(FileNotFoundError, match=r"table.save\(path\)"):
        TokenTable.load(tmp_path / "nowhere")
    monkeypatch.setattr(store, "FORMAT", 1)
    with pytest.raises(ValueError, match=r"newer scjepa.*Upgrade"):
        TokenTable.load(file)


def test_folders_of_the_format_before_are_refused(tmp_path):
    """A cache names tables otherwise now, so that those of the format before are built anew."""
    (tmp_path / "tokens-abc").mkdir()
    with pytest.raises(ValueError, match="is a folder"):
        TokenTable.load(tmp_path / "tokens-abc")
    with pytest.raises(ValueError, match="is a folder"):
        make_table().save(tmp_path / "tokens-abc")


def test_a_file_is_written_once_and_never_by_halves(file, monkeypatch):
    before = file.stat().st_mtime_ns
    make_table(seed=1).save(file, MARKS)  # the first to finish won
    assert file.stat().st_mtime_ns == before
    with pytest.raises(ValueError, match="made from other data"):
        make_table(seed=1).save(file, {**MARKS, "counts": "other"})

    def fail(arrays, path, metadata):
        path.write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(store, "save_file", fail)
    with pytest.raises(OSError, match="No space"):
        make_table().save(file.parent / "second")
    assert [path.name for path in file.parent.iterdir()] == ["t"]


_WRITER = """
import sys
import numpy as np
from scjepa.tokens import NeighborTable
index = np.arange(3_000_000, dtype=np.int32).reshape(-1, 3)
NeighborTable(index).save(sys.argv[1], {"k": 3})
print(NeighborTable.load(sys.argv[1], fingerprint={"k": 3}).n_cells)
"""


def test_runs_may_share_a_file(tmp_path):
    def save(path):
        make_table().save(path, MARKS)
        return TokenTable.load(path, fingerprint=MARKS).n_tokens

    with ThreadPoolExecutor(8) as pool:
        sizes = set(pool.map(save, [tmp_path / "t"] * 24))
    assert sizes == {make_table().n_tokens}
    command = [sys.executable, "-c", _WRITER, str(tmp_path / "p")]
    runs = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [run.communicate(timeout=60)[0].strip() for run in runs] == ["1000000"] * 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["p", "t"]


def test_digests_tell_contents_apart():
    a = np.arange(6)
    assert digest(a) == digest(a.copy())
    different = [a, a.reshape(2, 3), a.astype(np.int32), a[::-1], ["0"], [0], "0", None]
    assert len({digest(x) for x in different}) == len(different)
    assert digest("a", "b") != digest("ab")
    assert digest(np.array(["x", 1], dtype=object)) == digest(["x", 1])
