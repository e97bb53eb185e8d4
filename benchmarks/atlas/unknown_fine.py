"""Ways to tell a thin layer by how crowded its cells are: axes, whitening, what is near, and shares of the error.

    export SCJEPA_DATA=... OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1
    python -m benchmarks.atlas.unknown_fine mPFC DLPFC     # results/unknown_fine.csv

Regions are left out as by ``leave_out unknown``; of DLPFC 151673 is predicted, and 151674, on which the rule is
reported, takes no part. Crowding is told in ``axes`` principal components, whitened within niches with the covariance
shrunken by ``shrinkage``; the ``nearest`` share of cells counts; averaged over ``steps`` of the graph; ``within``:
compared with the other cells of the section. With the distance ``alone``, or with ``coarse`` crowding as well (50 axes,
4 steps, not within). Of the error at most a ``half`` each, less where the union of alarms would exceed it, or an
``equal`` share each. Axes of 0: distance and coarse crowding, the rule of before.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from itertools import product
from typing import Any, NamedTuple

import numpy as np
from benchmarks.atlas.candidates import RESULTS, left_out
from benchmarks.atlas.leave_out import UNLABELLED, labels_of, load_set
from benchmarks.records import fill, keys
from sklearn.metrics import roc_auc_score

from scjepa._core.conformal import thinned
from scjepa.atlas import _cells
from scjepa.atlas._calibration import Calibration
from scjepa.atlas._cells import Crowding

ERROR = 0.1
COARSE = Crowding(50, 0.5, 0.05, 0, False)
SPACES = (
    COARSE,
    *(Crowding(axes, 0.5, near, 0, False) for axes, near in product((100, 150, 200), (0.03, 0.05))),
    *(Crowding(axes, shrinkage, near, 0, False) for (axes, shrinkage), near in product(((300, 0.8),), (0.03, 0.05))),
)
"""As they are, before they are averaged."""
STEPS = (0, 1, 4)


class Told(NamedTuple):
    """What is known of the cells of a part: distance, coarse crowding, crowding in each space, and graph."""

    distance: np.ndarray
    coarse: np.ndarray
    fine: np.ndarray
    edges: Any

    def strangeness(self, at: int, n_steps: int, within: bool) -> np.ndarray:
        """Return distance, coarse and fine crowding, ``(n_cells, 3)``."""
        fine = _cells._averaged(self.fine[:, at], self.edges, n_steps)
        return np.column_stack([self.distance, self.coarse, _cells._within(fine) if within else fine])


def told_of(part: tuple) -> Told:
    """Return what is known of the cells of a part, which is one section here."""
    kept, new, names, edges, _ = part
    _cells.CROWDED = SPACES
    fine = kept.crowding(new, names, edges)
    coarse = _cells._averaged(fine[:, SPACES.index(COARSE)], edges, 4)
    return Told(kept.distance(new.surroundings, names, edges), coarse, fine, edges)


def calibration_of(parts: list[np.ndarray]) -> Calibration:
    """Return the thresholds of held-out parts, as an atlas makes them."""
    sorted_parts = [thinned(one[np.lexsort(one.T[::-1])]) for one in parts]
    return Calibration(np.sort(np.concatenate(parts)[:, 0]), sum(map(len, parts)), "section", sorted_parts, np.ones(1))


def rows_of(parts: list[tuple], is_left: np.ndarray) -> Iterator[dict[str, Any]]:
    """Yield a row for each rule; the last part is the section predicted."""
    known = [told_of(part) for part in parts]
    has_niche = [part[4] for part in parts]
    yield {"axes": 0, **scored([one.strangeness(0, 0, False)[:, :2] for one in known], has_niche, is_left, "half")}
    for (at, space), n_steps, within in product(enumerate(SPACES), STEPS, (False, True)):
        told = [one.strangeness(at, n_steps, within) for one in known]
        about = {"axes": space.n_axes, "shrinkage": space.shrinkage, "nearest": space.nearest}
        about |= {"steps": n_steps, "within": within}
        yield {**about, "coarse": "alone", **scored([one[:, [0, 2]] for one in told], has_niche, is_left, "half")}
        for share in ("half", "equal"):
            yield {**about, "coarse": "coarse", **scored(told, has_niche, is_left, share)}


def scored(told: list[np.ndarray], has_niche: list[np.ndarray], is_left: np.ndarray, share: str) -> dict[str, Any]:
    """Return what is found of a region, and false alarms."""
    calibration = calibration_of([one[known] for one, known in zip(told[:-1], has_niche[:-1], strict=True)])
    number = told[0].shape[1]
    limits = calibration._exceeded_by(calibration.share(ERROR) if share == "half" else ERROR / number)
    unknown = np.any(told[-1] > limits, axis=1)
    found = {"share": share, "false_alarms": unknown[~is_left].mean()}
    if is_left.any():
        found |= {"auc": roc_auc_score(is_left, told[-1][:, -1]), "found": unknown[is_left].mean()}
    return found


def main(name: str) -> None:
    """Append the rows of a set."""
    adata = load_set(name)
    sections, labels = adata.obs["section"].astype(str).to_numpy(), labels_of(adata)
    regions = ["none", *sorted(set(labels) - set(UNLABELLED))]
    predicted = ["151673"] if name == "DLPFC" else np.unique(sections)

    def made(_: str, section: str, region: str) -> list[dict]:
        parts = left_out(adata, name, section, region)
        return list(rows_of(parts, labels[sections == section] == region))

    fill(RESULTS / "unknown_fine.csv", keys(set=[name], section=predicted, region=regions), made)


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    for each in sys.argv[1:]:
        main(each)
