"""Scores of predicted labels: right ones, confidence that can be believed, and cells of no known label."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from scjepa._core import keys as _keys
from scjepa._core.conformal import expected_calibration_error
from scjepa.metrics.clustering import _labelled

if TYPE_CHECKING:
    from scjepa._core.arrays import Ignored, Labels


@dataclass(frozen=True)
class AnnotationScores:
    """Scores of predicted labels.

    Attributes
    ----------
    accuracy
        Share of the scored cells whose label was found; ``"unknown"`` is not right.
    macro_f1
        Mean over the labels among the scored cells of the F1 score.
    calibration_error
        Expected calibration error of the confidence; NaN without one.
    unknown
        Share of the scored cells called ``"unknown"``: false alarms where the reference has their labels.
    found_unknown
        Share of the cells of labels that the reference lacks that were called ``"unknown"``; NaN where there are none.
    n_cells, n_new
        Cells that were scored, and cells of labels that the reference lacks.
    labels
        One row for each label: ``n_cells``, ``precision``, ``recall``, ``f1``, ``unknown``.
    """

    accuracy: float
    macro_f1: float
    calibration_error: float
    unknown: float
    found_unknown: float
    n_cells: int
    n_new: int
    labels: pd.DataFrame


def annotation_scores(
    truth: Labels,
    predicted: Labels,
    confidence: np.ndarray | pd.Series | None = None,
    *,
    known: Labels | None = None,
    ignore: Ignored = _keys.UNLABELLED,
) -> AnnotationScores:
    """Score predicted labels against known ones.

    Parameters
    ----------
    truth
        ``(n_cells,)`` label of each cell.
    predicted
        ``(n_cells,)`` label that was found, ``"unknown"`` or missing where none was.
    confidence
        ``(n_cells,)`` probability of the label, in [0, 1].
    known
        Labels that the reference has; cells of others are scored by ``found_unknown`` alone. Default: all.
    ignore
        Labels in ``truth`` that mean "no label". Cells with these or NaN are left out.

    Raises
    ------
    ValueError
        If lengths differ, no cell has a label that the reference has, or a confidence lies outside [0, 1].

    Examples
    --------
    >>> scores = scjepa.metrics.annotation_scores(truth, adata.obs["predicted_label"], known=["B", "T"])
    >>> scores.labels
    """
    from sklearn.metrics import precision_recall_fscore_support

    _, kept = _labelled(truth, ignore)
    if len(predicted) != len(kept):
        raise ValueError(f"truth has {len(kept)} cells, predicted {len(predicted)}.")
    right = np.asarray(truth, dtype=object)[kept].astype(str)
    found = pd.Series(np.asarray(predicted, dtype=object)[kept]).fillna(_keys.UNKNOWN).astype(str).to_numpy()
    has = np.ones(len(right), dtype=bool) if known is None else np.isin(right, np.unique(np.asarray(known, dtype=str)))
    if not has.any():
        raise ValueError("No cell has a label that the reference has: are they spelt alike?")
    is_unknown = found == _keys.UNKNOWN
    present = np.unique(right[has])
    precision, recall, f1, sizes = precision_recall_fscore_support(
        right[has], found[has], labels=present, zero_division=0
    )
    error = np.nan
    if confidence is not None:
        error = expected_calibration_error((right == found)[has], np.asarray(confidence)[kept][has])
    alarms = pd.Series(is_unknown[has]).groupby(right[has]).mean()[present].to_numpy()
    table = {"n_cells": sizes, "precision": precision, "recall": recall, "f1": f1, "unknown": alarms}
    return AnnotationScores(
        accuracy=float((right == found)[has].mean()),
        macro_f1=float(f1.mean()),
        calibration_error=error,
        unknown=float(is_unknown[has].mean()),
        found_unknown=float(is_unknown[~has].mean()) if (~has).any() else np.nan,
        n_cells=int(has.sum()),
        n_new=int((~has).sum()),
        labels=pd.DataFrame(table, index=pd.Index(present, name="label")),
    )
