from __future__ import annotations

import numpy as np
import pytest

from scjepa.datasets import Geometry, TechnologySpec
from scjepa.datasets._tissue import resolve_technologies


def test_technologies_in_every_form():
    specs = [TechnologySpec("A"), TechnologySpec("B")]
    assert resolve_technologies("A") == (specs[0],)
    assert resolve_technologies(["A", specs[1]]) == tuple(specs)
    assert resolve_technologies({"A": {}, "B": {}}) == tuple(specs)
    assert resolve_technologies(specs[0]) == (specs[0],)


def test_panels_are_kept_as_plain_values():
    assert TechnologySpec("A", genes=np.array(["g2", "g1"])).genes == ("g2", "g1")
    assert TechnologySpec("A", genes=np.float32(0.5)).genes == 0.5


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"name": ""}, ValueError, "must be text"),
        ({"name": "A", "genes": "gene_1"}, TypeError, "share or a list of names, found 'gene_1'"),
        ({"name": "A", "genes": 1.5}, ValueError, "genes"),
        ({"name": "A", "capture": 0.0}, ValueError, "capture must be positive"),
        ({"name": "A", "background": 1.1}, ValueError, "background"),
        ({"name": "A", "dispersion": -1.0}, ValueError, "dispersion must not be negative"),
        ({"name": "A", "batch_effect": -1.0}, ValueError, "batch_effect must not be negative"),
    ],
)
def test_technology_errors(options, error, match):
    with pytest.raises(error, match=match):
        TechnologySpec(**options)


@pytest.mark.parametrize("options", [{"density": 0.0}, {"patches": 0}, {"warp": -0.1}, {"warp": 2.0}])
def test_geometry_errors(options):
    with pytest.raises(ValueError, match=f"Geometry.{next(iter(options))}"):
        Geometry(**options)
