"""Places of neighbors: free of shift and unit, and where they travel with tokens."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from scjepa.stjepa import TokenSource
from scjepa.tokens import NeighborTable, TokenConfig, build_token_table, neighbor_places

SQUARE = np.array([[0, 0], [2, 0], [0, 2], [2, 2]], dtype=float)
INDEX = np.array([[1, 2], [0, 3], [0, -1], [-1, -1]], dtype=np.int32)


def test_places_are_offsets_in_median_distances():
    places = neighbor_places(NeighborTable(INDEX), SQUARE)
    expected = np.zeros((4, 2, 3))
    expected[0, :, :2] = [[1, 0], [0, 1]]
    expected[1, :, :2] = [[-1, 0], [0, 1]]
    expected[2, 0, :2] = [0, -1]
    np.testing.assert_array_equal(places, expected)
    assert places.dtype == np.float32


def test_shift_and_unit_of_a_section_do_not_matter_and_each_has_its_own():
    coordinates = np.vstack([SQUARE, 0.001 * SQUARE + 5e6])
    both = np.vstack([INDEX, np.where(INDEX >= 0, INDEX + 4, -1)])
    places = neighbor_places(NeighborTable(both), coordinates, np.repeat(["a", "b"], 4))
    np.testing.assert_allclose(places[4:], places[:4], atol=1e-5)


def test_three_coordinates_and_cells_in_one_place():
    deep = np.column_stack([np.zeros((4, 2)), [0.0, 3.0, 3.0, 6.0]])
    np.testing.assert_allclose(neighbor_places(NeighborTable(INDEX), deep)[0, :, 2], [1, 1])
    assert not neighbor_places(NeighborTable(INDEX), np.zeros((4, 2))).any()
    with pytest.raises(ValueError, match=r"two or three coordinates for each of 4 cells, found shape \(3, 2\)"):
        neighbor_places(NeighborTable(INDEX), SQUARE[:3])


def test_places_travel_with_the_tokens_of_their_cells():
    table = build_token_table(np.array([[3, 1], [2, 0], [0, 4], [1, 1]]), np.arange(2), 2, TokenConfig())
    neighbors = NeighborTable(INDEX)
    places = neighbor_places(neighbors, SQUARE)
    source = TokenSource(table, neighbors, np.zeros(4, dtype=int), places=places)
    batch = source.batch(torch.tensor([1, 3]), True)
    assert batch.segments.tolist() == [0, 1, 1, 2, 2, 3, 0, 0, 3]
    origin = [0, 0, 0]
    left, up = [-1, 0, 0], [0, 1, 0]
    assert batch.places.tolist() == [origin, left, left, up, up, origin, origin, origin, origin]
    assert batch.select(batch.segments == 2).places.tolist() == [up, up]
    assert batch.repeat(2).places.tolist() == 2 * batch.places.tolist()
    assert source.nbytes == TokenSource(table, neighbors, np.zeros(4, dtype=int)).nbytes + places.nbytes
    assert len(source.arrays()) == len(TokenSource(table, neighbors, np.zeros(4, dtype=int)).arrays()) + 1
    assert source.to("meta")._places.device.type == "meta"
