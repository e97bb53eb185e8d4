from __future__ import annotations

import numpy as np
import pytest

from scjepa.training import plan as schedules


def test_learning_rate_warms_up_peaks_and_ends():
    rates = [schedules.learning_rate(s, 1000, 1e-3, 1e-6, 0.1) for s in range(1000)]
    assert rates[0] < 2e-5
    assert max(rates) == pytest.approx(1e-3)
    assert int(np.argmax(rates)) == 100
    assert rates[-1] == pytest.approx(1e-6, abs=1e-8)
    assert (np.diff(rates[100:]) <= 0).all()


def test_weight_decay_and_momentum_meet_the_papers_ends():
    assert schedules.weight_decay(0, 500, 0.04, 0.4) == pytest.approx(0.04)
    assert schedules.weight_decay(499, 500, 0.04, 0.4) == pytest.approx(0.4)
    assert schedules.momentum(0, 500, 0.995, 1.0) == 0.995
    assert schedules.momentum(499, 500, 0.995, 1.0) == 1.0
    assert schedules.momentum(250, 501, 0.99, 1.0) == pytest.approx(0.995)


def test_one_step_runs_are_defined():
    assert schedules.learning_rate(0, 1, 1e-3, 0, 0.1) > 0
    assert schedules.momentum(0, 1, 0.99, 1.0) == 0.99
