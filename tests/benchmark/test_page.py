"""The example of one's own method on the page runs as it stands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "user_guide" / "benchmark.md"


@pytest.mark.skipif(not PAGE.is_file(), reason="the documentation is not beside the tests")
def test_the_example_of_ones_own_method_runs_and_has_under_ten_lines(tissue, monkeypatch, capsys):
    monkeypatch.setattr("scjepa.benchmark.score.ilisi", lambda values, batches: 0.5)
    (code,) = re.findall(r"<!-- own-method -->\n```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    assert sum(bool(line.strip()) for line in code.splitlines()) < 10
    scope = {"adata": tissue, "__name__": "page"}
    exec(compile(code, str(PAGE), "exec"), scope)
    table = scope["results"].table_1()
    assert set(table["method"]) == {"mine", "neighborhood_pca"}
    assert table["nmi"].notna().all()
    assert "| mine |" in capsys.readouterr().out
