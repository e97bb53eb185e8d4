from __future__ import annotations

import numpy as np
import pytest

from scjepa.celljepa import hold_out_cells


def test_random_cells_are_held_out_and_the_split_repeats():
    cells = np.arange(5, 105)
    train, held = hold_out_cells(cells, 0.1, seed=3)
    assert len(held) == 10
    assert sorted([*train, *held]) == cells.tolist()
    assert all(np.array_equal(a, b) for a, b in zip(hold_out_cells(cells, 0.1, seed=3), (train, held), strict=True))
    assert not np.array_equal(hold_out_cells(cells, 0.1, seed=4)[1], held)


def test_whole_groups_are_held_out_and_never_all():
    cells, groups = np.arange(90), np.repeat([0, 1, 2], 30)
    train, held = hold_out_cells(cells, 0.1, groups)
    assert len(np.unique(groups[held])) == 1
    assert len(train) == 60
    assert len(hold_out_cells(cells, 0.5, np.repeat([0, 1], 45))[0]) == 45


def test_nothing_to_hold_out():
    train, held = hold_out_cells(np.arange(4), 0.0)
    assert (len(train), len(held)) == (4, 0)
    with pytest.raises(ValueError, match="not two batches"):
        hold_out_cells(np.arange(4), 0.5, np.zeros(4))
    with pytest.raises(ValueError, match="not two cells"):
        hold_out_cells(np.arange(1), 0.5)
