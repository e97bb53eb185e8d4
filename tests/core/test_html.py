"""Results in a notebook."""

from __future__ import annotations

import html
import re

import pandas as pd
import pytest

from scjepa._core.html import as_html
from scjepa.models.estimate import Estimate
from scjepa.tl import compare_niches, niche_composition
from scjepa.training import Diagnosis


@pytest.fixture
def adata():
    ad = pytest.importorskip("anndata")
    obs = pd.DataFrame({"niche": list("aabb"), "cell_type": ["x<y", "z", "z", "z"]}, index=list("1234"))
    return ad.AnnData(obs=obs.astype("category"))


def test_words_are_shown_where_there_are_some():
    found = Diagnosis("collapsed", ("the rank is 1 < 2",), ("try this",))
    shown = found._repr_html_()
    assert "<strong>Diagnosis</strong>" in shown
    assert html.escape(str(found)) in shown


def test_estimates_are_shown_in_words():
    parameters = dict.fromkeys(("encoder", "trained", "total"), 1000)
    found = Estimate(10, "cpu", parameters, 1, 2, 3, 4, 5, 6.0, 7.0, None)
    assert "5 steps" in as_html(found)


def test_tables_have_their_names_and_numbers_theirs(adata):
    shown = niche_composition(adata)._repr_html_()
    assert re.findall(r"<summary>(.*?)</summary>", shown) == ["counts (2 × 2)", "shares (2 × 2)"]
    assert "x&lt;y" in shown
    assert "x<y" not in shown
    shown = compare_niches(adata, "niche", "cell_type")._repr_html_()
    assert "<th>nmi</th>" in shown
    assert "<th>n_cells</th><td>4</td>" in shown
    assert "matching (2 × 6)" in shown
