"""What all figures have in common: how they are shown, saved and titled is said in the same words."""

from __future__ import annotations

import inspect

import pytest

import scjepa

GRIDS = {"niche_drivers", "niche_number", "predictive_genes"}
"""Functions that always draw several panels, each with a title that says what it is: no ``ax``, no ``title``."""


@pytest.mark.parametrize("name", scjepa.pl.__all__)
def test_every_function_of_pl_is_called_alike(name):
    known = inspect.signature(getattr(scjepa.pl, name)).parameters
    assert list(known)[-2:] == ["save", "show"]
    assert known["save"].default is known["show"].default is None
    assert ("ax" in known) is (name not in GRIDS)
    assert ("title" in known) is (name not in GRIDS | {"training"})
    of_figure = {"title", "library_key", "groups", "palette", "ax", "save", "show", "ncols", "size"} & set(known)
    assert all(known[each].kind is inspect.Parameter.KEYWORD_ONLY for each in of_figure)


@pytest.mark.parametrize("name", ["niches.docx", "niches.PNGG"])
def test_a_kind_of_figure_that_cannot_be_written_is_named(strip, tmp_path, name):
    with pytest.raises(ValueError, match=rf"{name}.*Unknown kind of figure.*Known: .*pdf, .*png"):
        scjepa.pl.niches(strip, save=tmp_path / name)
    scjepa.pl.niches(strip, save=tmp_path / "niches.PNG", show=False)
    scjepa.pl.niches(strip, save=tmp_path / "without_suffix", show=False)
    assert {path.name for path in tmp_path.iterdir()} == {"niches.PNG", "without_suffix.png"}
