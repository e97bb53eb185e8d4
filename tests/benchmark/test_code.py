"""What tells that one's own function was changed."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import textwrap
import threading
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from scjepa.benchmark._code import UNKNOWN, code_of


def made(source: str, **variables):
    """Return the function ``f`` of a source."""
    scope = {"__name__": "made", **variables}
    exec(textwrap.dedent(source), scope)
    return scope["f"]


def around(value):
    """Return a function that reads a variable around it."""
    return lambda adata: (adata, value)


@dataclass
class Weighted:
    weight: float = 1.0

    def __call__(self, adata):
        return adata.X * self.weight


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (2, 3),
        (2, 2.0),
        ("a", "b"),
        ([1, [2]], [1, [3]]),
        ({"k": 1}, {"k": 2}),
        ({"a", "b"}, {"a", "c"}),
        (np.zeros(3), np.array([0.0, 0, 1])),
        (np.zeros(4), np.zeros((2, 2))),
        (np.array(["a", None], dtype=object), np.array(["a", 1], dtype=object)),
        (sparse.eye(3, format="csr"), sparse.eye(3, format="csr") * 2),
        (pd.DataFrame({"a": [1]}), pd.DataFrame({"b": [1]})),
        (pd.Series([1, 2]), pd.Series([1, 2], index=[1, 0])),
        (Path("a"), Path("b")),
        (around(1), around(2)),
        (functools.partial(max, 1), functools.partial(max, 2)),
        (Weighted(1.0), Weighted(2.0)),
        (Weighted(1.0).__call__, Weighted(2.0).__call__),
        (np.log1p, np.sqrt),
        (np.mean, np.median),
        (len, max),
    ],
)
def test_a_changed_value_is_another_code_wherever_it_stands(one, other):
    for form in (
        around,
        lambda value: functools.partial(around(0), value=value),
        lambda value: functools.partial(around(0), value),
        lambda value: made("def f(adata): return [k for _ in adata]", k=value),
        lambda value: made("def f(adata, k=k): pass", k=value),
        lambda value: made("def f(adata, *, k=k): pass", k=value),
    ):
        assert code_of(form(one)) == code_of(form(one)) != code_of(form(other))
        assert UNKNOWN not in (code_of(form(one)), code_of(form(other)))


def test_equal_values_are_one_code():
    assert code_of(around(np.arange(3))) == code_of(around(np.arange(3)))
    assert code_of(around([1, {"a": "b"}])) == code_of(around([1, {"a": "b"}]))
    assert code_of(Weighted(2.0)) == code_of(Weighted(2.0))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("def f(a): return a + 1", "def f(a): return a + 2"),
        ("def f(a): return a.real", "def f(a): return a.imag"),
        ("f = lambda a: (lambda b: b + 1)(a)", "f = lambda a: (lambda b: b + 2)(a)"),
        ("def g(a): return 1\ndef f(a): return g(a)", "def g(a): return 2\ndef f(a): return g(a)"),
        ("k = 1\ndef g(a): return k\ndef f(a): return g(a)", "k = 2\ndef g(a): return k\ndef f(a): return g(a)"),
        ("def f(a): return f(1)", "def f(a): return f(2)"),
        (
            "class C:\n  def g(s): return 1\ndef f(a): return C()",
            "class C:\n  def g(s): return 2\ndef f(a): return C()",
        ),
        (
            "import functools\n@functools.lru_cache\ndef f(a): return 1",
            "import functools\n@functools.lru_cache\ndef f(a): return 2",
        ),
    ],
)
def test_a_changed_source_is_another_code(one, other):
    assert code_of(made(one)) == code_of(made(one)) != code_of(made(other))
    assert UNKNOWN not in (code_of(made(one)), code_of(made(other)))
    assert code_of(made(f"# told\n\n{one}")) == code_of(made(one))


def test_lambdas_of_one_line_are_told_apart():
    one, other = lambda a: a[:1], lambda a: a[1:]
    assert code_of(one) != code_of(other)


def test_a_decorated_function_is_told_by_what_is_within():
    def twice(function):
        @functools.wraps(function)
        def wrapped(adata):
            return function(function(adata))

        return wrapped

    assert code_of(twice(around(1))) == code_of(twice(around(1))) != code_of(twice(around(2)))


def test_a_run_of_the_function_changes_nothing():
    function = made("def f(a):\n    return sum(b + 1 for b in range(a))")
    before = code_of(function)
    for _ in range(5000):
        function(3)
    assert code_of(function) == before


@pytest.mark.parametrize("value", [threading.Lock(), np.random.default_rng(0), iter([1]), np.ma.array([1], mask=[1])])
def test_what_cannot_be_told_is_unknown(value):
    assert code_of(around(value)) == UNKNOWN
    assert code_of(around([{"a": value}])) == UNKNOWN
    assert code_of(Weighted(value)) == UNKNOWN


def test_what_holds_itself_ends():
    value: list = [1]
    value.append(value)
    assert code_of(around(value)) == code_of(around(value)) != UNKNOWN


def test_a_code_is_the_same_in_every_session(tmp_path):
    source = """
    import functools, logging
    from dataclasses import dataclass
    from pathlib import Path
    import numpy as np
    from scjepa.benchmark._code import code_of
    log = logging.getLogger("mine")
    NAMES = {"a", "b", "c", "d"}

    @dataclass
    class Options:
        k: int = 3

    def helper(adata):
        log.info("here")
        return len({"x", "y", "z"} & NAMES)

    def mine(adata, k, options=Options()):
        return helper(adata) if "x" in {"x", "y", "z"} else np.log1p(k)

    print(code_of(functools.partial(mine, k=[Path("a"), np.ones(3)])))
    """
    (tmp_path / "script.py").write_text(textwrap.dedent(source))
    command = [sys.executable, "-c", "import script"]
    told = [
        subprocess.check_output(command, cwd=tmp_path, env={**os.environ, "PYTHONHASHSEED": seed}, text=True)
        for seed in ("1", "2")  # the second reads script.pyc
    ]
    assert told[0] == told[1] != f"{UNKNOWN}\n"
