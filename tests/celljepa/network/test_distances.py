from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from scjepa.celljepa.module import JEPA_DISTANCES, as_target
from scjepa.config import CellObjectiveConfig


def test_distances_are_of_directions_or_of_places():
    x = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    for other, cosine, squared in ((x, 0.0, 0.0), (-x, 2.0, 5.0), (3 * x, 0.0, 5.0), (x.flip(1), 1.0, 2.5)):
        assert JEPA_DISTANCES["cosine"](x, other).item() == pytest.approx(cosine, abs=1e-6)
        assert JEPA_DISTANCES["squared"](x, other).item() == pytest.approx(squared)


@pytest.mark.parametrize("shape", [(50, 4), (50, 3, 4)])
def test_targets_are_standardized_over_cells_where_that_is_asked_for(shape):
    vectors = 5 + 3 * torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    config = CellObjectiveConfig()
    assert torch.equal(as_target(vectors, config), vectors.float())
    standardized = as_target(vectors, replace(config, target_norm="batch"))
    torch.testing.assert_close(standardized.mean(0), torch.zeros(shape[1:]), atol=1e-4, rtol=0)
    torch.testing.assert_close(standardized.std(0), torch.ones(shape[1:]), atol=1e-3, rtol=0)
