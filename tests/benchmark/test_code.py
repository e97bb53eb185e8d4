"""What tells that one's own function was changed."""

from __future__ import annotations

import functools
import importlib.util
import linecache
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from scjepa.benchmark.method import UNKNOWN, code_of


def around(value):
    """Return a function that reads a variable around it."""
    return lambda adata: (adata, value)


def loaded(path: Path, source: str):
    """Return the function ``f`` of a file with this source."""
    path.write_text(textwrap.dedent(source))
    linecache.clearcache()
    spec = importlib.util.spec_from_file_location("mine", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.f


def cell(source: str, **variables):
    """Return the function ``f`` of a cell of a notebook: its source is at hand, and it is in no file."""
    source = textwrap.dedent(source)
    name = f"<cell-{abs(hash(source))}>"
    linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
    scope = {"__name__": "__main__", **variables}
    exec(compile(source, name, "exec"), scope)
    return scope["f"]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (2, 3),
        ("a", "b"),
        ([1, [2]], [1, [3]]),
        ({"k": 1}, {"k": 2}),
        (Path("a"), Path("b")),
        (around(1), around(2)),
        (functools.partial(around, 1), functools.partial(around, 2)),
        (np.log1p, np.sqrt),
        (np.mean, np.median),
        (len, max),
    ],
)
def test_a_changed_value_is_another_code_wherever_it_stands(one, other):
    for form in (around, lambda value: functools.partial(around(0), value=value)):
        codes = [code_of(form(value)) for value in (one, other, one)]
        assert UNKNOWN not in codes
        assert codes[0] == codes[2] != codes[1]


def test_a_changed_default_is_another_code():
    def made(k):
        def f(adata, k=k):
            return adata, k

        return f

    assert code_of(made(1)) == code_of(made(1)) != code_of(made(2))


def test_anything_that_is_changed_in_its_file_is_another_code(tmp_path):
    source = """
    def helper(adata):
        return adata.X
    def f(adata):
        return helper(adata)
    """
    before = code_of(loaded(tmp_path / "mine.py", source))
    assert code_of(loaded(tmp_path / "mine.py", source)) == before != UNKNOWN
    assert code_of(loaded(tmp_path / "mine.py", source.replace(".X", ".X + 1"))) != before


def test_in_a_notebook_what_a_function_calls_and_reads_is_part_of_it():
    source = "k = 1\ndef helper(adata):\n    return adata.X * k\ndef f(adata):\n    return helper(adata)\n"
    before = code_of(cell(source))
    assert code_of(cell(f"x = 3\n\n{source}")) == before != UNKNOWN  # in another place, as in each session
    for old, new in (("k = 1", "k = 2"), ("X * k", "X + k"), ("return helper(adata)", "return -helper(adata)")):
        assert code_of(cell(source.replace(old, new))) != before


def test_functions_that_call_each_other_have_an_end():
    assert code_of(cell("def f(n):\n    return g(n)\ndef g(n):\n    return f(n - 1)\n")) != UNKNOWN


class Fitted:
    """An object that learned something."""

    def __call__(self, adata):
        """Embed."""
        return adata.X


@pytest.mark.parametrize(
    "function",
    [
        Fitted(),
        Fitted().__call__,
        around(Fitted()),
        around(np.zeros(3)),
        around(np.random.default_rng(0)),
        functools.partial(around, np.zeros(3)),
        eval("lambda adata: adata.X"),
    ],
    ids=["object", "method", "closure", "array", "generator", "partial", "no source"],
)
def test_what_cannot_be_compared_is_unknown(function):
    assert code_of(function) == UNKNOWN


SESSION = """
import sys
import numpy as np
from scjepa.benchmark.method import code_of
def mine(adata, names={"b": 1, "a": 2}):
    return np.log1p(adata.X)
print(code_of(mine))
"""


def test_the_code_is_the_same_in_every_session(tmp_path):
    (tmp_path / "script.py").write_text(SESSION)
    runs = [subprocess.run([sys.executable, str(tmp_path / "script.py")], capture_output=True, text=True) for _ in "ab"]
    assert runs[0].stdout == runs[1].stdout
    assert len(runs[0].stdout.strip()) == 8
