from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import scjepa


@pytest.fixture
def labelled() -> ad.AnnData:
    """Return cells of three types, one of which was never called, with predicted labels."""
    truth = np.repeat(["B", "T", "platelet"], [40, 60, 10]).astype(object)
    called = truth.copy()
    called[:10], called[100:] = "T", "unknown"
    nearest = np.where(called == "unknown", "T", called)
    sure = np.where(truth == called, 0.9, 0.5) + np.arange(110) / 1e4
    truth[0] = None
    obs = pd.DataFrame(
        {
            "cell_type": pd.Categorical(truth),
            "predicted_label": pd.Categorical(called),
            "predicted_label_nearest": pd.Categorical(nearest),
            "predicted_label_confidence": sure,
        },
        index=[f"c{i}" for i in range(110)],
    )
    return ad.AnnData(np.ones((110, 2), dtype=np.float32), obs=obs)


def test_confusion_has_unknown_last(labelled, pl):
    figure = pl.confusion(labelled, "cell_type")
    ax = figure.axes[0]
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["B", "T", "unknown"]
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["B (39)", "T (60)", "platelet (10)"]
    shares = ax.images[0].get_array()
    np.testing.assert_allclose(shares, [[30 / 39, 9 / 39, 0], [0, 1, 0], [0, 0, 1]])
    assert "82.6% of 109 cells" in ax.get_title(loc="left")


def test_reliability_leaves_out_labels_that_nothing_is_called(labelled, pl):
    ax = pl.reliability(labelled, "cell_type", n_bins=2).axes[0]
    x, y = ax.lines[0].get_data()
    assert x[0] < x[1] < 0.92
    np.testing.assert_allclose(y, [40 / 49, 1], atol=0.03)
    assert "calibration error 0." in ax.get_title(loc="left")
    assert ax.get_xlabel() == "confidence"


def test_what_they_cannot_draw_is_named(labelled, pl):
    with pytest.raises(KeyError, match="celltype"):
        pl.confusion(labelled, "celltype")
    labelled.obs["other"] = "stroma"
    with pytest.raises(ValueError, match="called in"):
        pl.reliability(labelled, "other")
    labelled.obs["predicted_label_confidence"] *= 2
    with pytest.raises(ValueError, match="0, 1"):
        pl.reliability(labelled, "cell_type")
    with pytest.raises(ValueError, match="n_bins"):
        pl.reliability(labelled, "cell_type", n_bins=0)
    labelled.obs["none"] = None
    with pytest.raises(ValueError, match="No cell has a label in both"):
        pl.confusion(labelled, "none")


@pytest.fixture
def profiles():
    """Return predicted profiles of two conditions, and measured ones with their genes in another order."""
    rng, genes = np.random.default_rng(0), [f"g{i}" for i in range(20)]
    control = rng.gamma(2, 1, 20)
    changes = rng.normal(size=(2, 20))
    predicted = ad.AnnData(control + changes, obs=pd.DataFrame(index=["A", "A+B"]), var=pd.DataFrame(index=genes))
    predicted.layers["control"] = np.tile(control, (2, 1))
    measured = pd.DataFrame(control + 2 * changes, ["A", "A+B"], genes)
    return predicted, measured.loc[["A+B", "A"], genes[::-1]]


def test_changes_of_each_condition_are_drawn_by_name(profiles, pl):
    predicted, measured = profiles
    figure = pl.perturbation(predicted, measured, n_genes=3)
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["A, r = 1.00", "A+B, r = 1.00"]
    x, y = np.asarray(figure.axes[0].collections[0].get_offsets()).T
    np.testing.assert_allclose(x, 2 * y, atol=1e-6)
    assert len(figure.axes[0].texts) == 3
    assert len(pl.perturbation(predicted, measured, "A").axes) == 1


def test_perturbations_that_are_not_there(profiles):
    predicted, measured = profiles
    with pytest.raises(KeyError, match="predicted has no condition 'C'"):
        scjepa.pl.perturbation(predicted, measured, ["C"])
    with pytest.raises(ValueError, match="share no gene"):
        scjepa.pl.perturbation(predicted, measured.rename(columns=str.upper))
    with pytest.raises(ValueError, match="share no condition"):
        scjepa.pl.perturbation(predicted, measured.rename(index=str.lower))
    del predicted.layers["control"]
    with pytest.raises(KeyError, match="control"):
        scjepa.pl.perturbation(predicted, measured)


def test_a_known_label_that_is_called_unknown_is_counted_once(labelled, pl):
    labelled.obs["cell_type"] = labelled.obs["cell_type"].cat.rename_categories({"platelet": "unknown"})
    ax = pl.confusion(labelled, "cell_type").axes[0]
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["B", "T", "unknown"]
    assert "109 cells" in ax.get_title(loc="left")
