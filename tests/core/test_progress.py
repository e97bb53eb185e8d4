"""Bars of long loops: where they are shown, and what they say."""

from __future__ import annotations

import io
import logging
import sys
from types import SimpleNamespace

import numpy as np
import pytest

import scjepa
from scjepa._core import progress
from scjepa._core.leiden import EmbeddingGraph
from scjepa._core.progress import shows_progress, with_progress


class Stream(io.StringIO):
    """What stderr is: a terminal, or a file."""

    def __init__(self, is_terminal: bool) -> None:
        super().__init__()
        self.is_terminal = is_terminal

    def isatty(self) -> bool:
        return self.is_terminal


@pytest.fixture
def looks_at(monkeypatch):
    """Return what puts a stream in the place of stderr."""

    def put(*, is_terminal: bool) -> Stream:
        monkeypatch.setattr(sys, "stderr", Stream(is_terminal))
        return sys.stderr

    monkeypatch.delitem(sys.modules, "IPython", raising=False)
    return put


@pytest.fixture
def settings(monkeypatch):
    monkeypatch.setattr(scjepa.settings, "progress_bar", None)
    return scjepa.settings


def test_nothing_is_shown_where_nobody_looks_unless_asked(looks_at, settings):
    stderr = looks_at(is_terminal=False)
    assert not shows_progress()
    assert shows_progress(True)
    assert list(with_progress(range(3), 3, "Counting", "steps")) == [0, 1, 2]
    assert stderr.getvalue() == ""
    settings.progress_bar = True
    assert shows_progress()
    assert not shows_progress(False)


def test_a_terminal_has_bars_and_quiet_settings_have_none(looks_at, settings, monkeypatch):
    looks_at(is_terminal=True)
    monkeypatch.setitem(sys.modules, "scvi", SimpleNamespace(settings=SimpleNamespace(verbosity=logging.INFO)))
    assert shows_progress()
    sys.modules["scvi"].settings.verbosity = logging.WARNING
    assert not shows_progress()
    settings.progress_bar = True
    assert shows_progress()
    settings.progress_bar = False
    assert not shows_progress()


def test_a_notebook_has_bars(looks_at, settings, monkeypatch):
    looks_at(is_terminal=False)
    shell = type("ZMQInteractiveShell", (), {})()
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    monkeypatch.delitem(sys.modules, "scvi", raising=False)
    assert shows_progress()


def test_a_bar_says_what_is_done_how_fast_and_what_is_left(looks_at, settings):
    stderr = looks_at(is_terminal=False)
    with progress.progress_bar(4, "Embedding", "cells", asked=True, delay=0) as bar:
        bar.mininterval = 0
        bar.update(2)
        bar.refresh()
    said = stderr.getvalue()
    assert "Embedding:  50%" in said
    assert "2/4" in said
    assert "cells/s" in said


def test_short_loops_have_none(looks_at, settings):
    stderr = looks_at(is_terminal=True)
    settings.progress_bar = True
    list(with_progress(range(3), 3, "Counting", "steps"))
    with progress.progress_bar(3, "Counting", "steps", asked=True, delay=60) as bar:
        bar.update()
    assert stderr.getvalue().strip() == ""


def test_the_search_of_a_resolution_counts(settings, monkeypatch):
    seen = []

    class Bar:
        def __enter__(self):
            return self

        def __exit__(self, *_):
            return None

        def update(self, n=1):
            seen.append(n)

    monkeypatch.setattr("scjepa._core.leiden.progress_bar", lambda *a, **k: Bar())
    embedding = np.random.default_rng(0).normal(size=(60, 3))
    EmbeddingGraph(embedding).match(4)
    assert seen
