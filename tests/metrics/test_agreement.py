from __future__ import annotations

import numpy as np
import pytest

from scjepa.metrics import neighbor_agreement


def _random(seed, n=60, d=4):
    return np.random.default_rng(seed).normal(size=(n, d))


def test_it_equals_the_definition_written_out():
    a, b = _random(0), _random(1, d=2)

    def near(x, i, k):
        order = np.argsort(((x - x[i]) ** 2).sum(1))
        return {j for j in order[: k + 1] if j != i}

    shares = [len(near(a, i, 7) & near(b, i, 7)) / 7 for i in range(60)]
    assert neighbor_agreement(a, b, n_neighbors=7) == pytest.approx(np.mean(shares))


def test_rotation_shift_and_scale_change_nothing_and_noise_takes_it_to_chance():
    a = _random(0, n=400)
    rotation = np.linalg.qr(_random(2, 4))[0]
    assert neighbor_agreement(a, 3 * a @ rotation + 5) == 1.0
    assert neighbor_agreement(a, _random(3, n=400)) == pytest.approx(15 / 399, abs=0.02)
    little, much = (neighbor_agreement(a, a + s * _random(4, n=400)) for s in (0.1, 1.0))
    assert 1 > little > much


def test_what_cannot_be_compared_is_told():
    with pytest.raises(ValueError, match="has 5 cells, 60 were expected"):
        neighbor_agreement(_random(0), _random(0, n=5))
    with pytest.raises(ValueError, match=r"\[1, 59\]"):
        neighbor_agreement(_random(0), _random(1), n_neighbors=60)
