"""Warnings name the line that called the package, however it was called."""

from __future__ import annotations

import contextlib
import inspect
import warnings
from pathlib import Path

import pytest
import torch

import scjepa
from scjepa._core.warn import warn

SOURCE = Path(scjepa.__file__).parent


def _in_package(code: str, **known):
    """Return the function ``f`` of code that says it is a module of the package."""
    names = {"__name__": "scjepa.somewhere._deep", "warn": warn, **known}
    exec(compile(code, str(SOURCE / "somewhere" / "_deep.py"), "exec"), names)
    return names["f"]


def _told_at(call) -> tuple[str, int]:
    with pytest.warns(UserWarning, match="look here") as caught:
        call()
    (found,) = caught
    return found.filename, found.lineno


def test_the_callers_line_is_named_however_deep_the_call():
    f = _in_package("def g(n):\n    return g(n - 1) if n else warn('look here')\ndef f(n): g(n)")
    for depth in (0, 1, 7):
        line = inspect.currentframe().f_lineno + 1
        assert _told_at(lambda d=depth: f(d)) == (__file__, line)


def test_wrappers_and_who_calls_back_are_passed_over():
    wrapped = _in_package("@wrap\ndef f(): warn('look here')", wrap=torch.inference_mode())
    assert _told_at(wrapped)[0] == __file__
    entered = _in_package("@wrap\ndef f():\n    warn('look here')\n    yield", wrap=contextlib.contextmanager)
    assert _told_at(lambda: entered().__enter__())[0] == __file__


def test_it_stops_at_the_first_line_that_is_not_the_packages():
    inner = _in_package("def f(): warn('look here')")

    def users() -> None:
        inner()  # this line

    outer = _in_package("def f(): users()", users=users)
    line = inspect.getsourcelines(users)[1] + 1
    assert _told_at(outer) == (__file__, line)


def test_names_that_begin_alike_are_not_passed_over():
    names = {"__name__": "scjepa_tools.own", "warn": warn}
    exec(compile("def f():\n    warn('look here')", "own.py", "exec"), names)
    assert _told_at(names["f"]) == ("own.py", 2)


def test_code_that_is_all_the_packages_still_warns():
    program = "import warnings\nfrom scjepa._core.warn import warn\nwarn('look here')"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        exec(compile(program, "run.py", "exec"), {"__name__": "__main__"})
    assert [(str(one.message), one.filename) for one in caught] == [("look here", "run.py")]


def test_every_warning_of_the_package_goes_that_way():
    by_hand = [path.name for path in SOURCE.rglob("*.py") if "warnings.warn(" in path.read_text()]
    assert by_hand == ["warn.py"]
