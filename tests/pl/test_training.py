from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from scjepa.stjepa import IJEPA, LeJEPA


def _metric(name: str, values, unit: str = "step") -> pd.DataFrame:
    return pd.DataFrame({name: values}, index=pd.RangeIndex(len(values), name=unit))


def _history(**metrics) -> dict[str, pd.DataFrame]:
    return {name: _metric(name, values) for name, values in metrics.items()}


def _model(objective, **metrics) -> SimpleNamespace:
    return SimpleNamespace(history=_history(**metrics), module=SimpleNamespace(objective=objective))


def test_every_metric_that_is_there_has_a_panel(pl):
    names = ("loss", "loss_ratio", "effective_rank", "embedding_std", "mean_cosine", "teacher_cosine")
    history = _history(**dict.fromkeys((*names, "learning_rate", "momentum", "validation_loss"), np.arange(5.0)))
    figure = pl.training(history)
    assert len(figure.axes) == 8  # validation shares the panel of the loss
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == ["training", "validation"]
    assert len(pl.training(_history(effective_rank=[1.0, 2.0])).axes) == 1


def test_lines_are_those_of_the_history(pl):
    history = _history(loss=[3.0, 2.0, 1.0], elbo_train=[0.0, 0.0, 0.0])
    (ax,) = pl.training(history).axes
    np.testing.assert_array_equal(ax.lines[0].get_ydata(), [3, 2, 1])
    assert ax.get_xlabel() == "step"


def test_the_names_of_scvi_tools_are_known(pl):
    history = {"train_loss_step": _metric("train_loss_step", [2.0, 1.0]), "rankme": _metric("rankme", [5.0, 6.0])}
    assert [ax.get_title() for ax in pl.training(history).axes] == ["loss", "effective rank"]


def test_the_loss_ratio_is_compared_with_one(pl):
    (ax,) = pl.training(_history(loss_ratio=[1.1, 0.9, 0.8])).axes
    assert [list(line.get_ydata()) for line in ax.lines if line.get_linestyle() == ":"] == [[1.0, 1.0]]


def test_ratios_of_tokens_and_of_what_is_pooled_can_be_read_in_one_panel(legend_texts, pl):
    names = ("loss_ratio", "cell_ratio", "neighborhood_ratio", "nearby_ratio")
    metrics = {name: [start, 0.8] for name, start in zip(names, (11.0, 1.0, 1.0, 1.0), strict=True)}
    figure = pl.training(_model(IJEPA, **metrics))
    figure.draw_without_rendering()
    (ax,) = figure.axes
    assert legend_texts(ax) == ["tokens", "cells", "neighborhoods", "nearby", "predicts the mean"]
    assert ax.get_yscale() == "log"
    assert {"1", "2", "4", "8"} <= {text.get_text() for text in ax.get_yticklabels()}


def test_views_have_a_panel_of_their_own_with_what_chance_gives(legend_texts, pl):
    views, first = pl.training(_model(LeJEPA, loss_ratio=[2.0, 0.9], views_ratio=[0.9, 0.2])).axes
    assert views.get_title() == "distance of views: of one / of any"
    np.testing.assert_array_equal(views.lines[0].get_ydata(), [0.9, 0.2])
    assert [list(line.get_ydata()) for line in views.lines if line.get_linestyle() == ":"] == [[1.0, 1.0]]
    assert legend_texts(views) == ["no more alike than any two"]
    assert "views" not in first.get_title()


def test_ratios_of_a_history_without_its_model_share_a_panel(legend_texts, pl):
    (ax,) = pl.training(_history(loss_ratio=[2.0, 0.9], views_ratio=[0.9, 0.2])).axes
    assert legend_texts(ax) == ["loss", "views", "nothing is learned"]


def test_nothing_is_told_of_a_teacher_where_there_is_none(pl):
    metrics = {"loss": [2.0, 1.0], "teacher_cosine": [1.0, 1.0]}
    assert len(pl.training(_history(**metrics, momentum=[0.0, 0.0])).axes) == 1
    assert len(pl.training(_history(**metrics, momentum=[0.0, 0.9])).axes) == 3


def test_long_noisy_lines_get_a_running_mean(pl):
    noise = np.random.default_rng(0).normal(size=400)
    (loss, rate) = pl.training(_history(loss=noise, learning_rate=noise)).axes
    raw, mean = loss.lines
    assert mean.get_ydata().std() < raw.get_ydata().std() / 3
    assert len(rate.lines) == 1


def test_steps_and_epochs_do_not_share_an_axis(pl):
    history = {
        "loss": _metric("loss", np.arange(50.0)),
        "validation_loss": _metric("validation_loss", [3.0, 2.0, 1.0], "epoch"),
    }
    bottom, top = pl.training(history).axes
    assert (bottom.get_xlabel(), top.get_xlabel()) == ("step", "epoch")
    assert [text.get_text() for text in bottom.get_legend().get_texts()] == ["training", "validation"]


def test_nan_and_one_value_are_fine(pl):
    (ax,) = pl.training(_history(loss=[np.nan, 2.0, np.inf], loss_ratio=[np.nan])).axes
    assert list(ax.lines[0].get_ydata()) == [2]
    assert ax.lines[0].get_marker() == "o"


def test_a_model_is_taken(tmp_path, pl):
    model = SimpleNamespace(history=_history(loss=[2.0, 1.0]))
    figure = pl.training(model, save=tmp_path / "training.png")
    assert len(figure.axes) == 1
    assert (tmp_path / "training.png").exists()


@pytest.mark.parametrize("empty", [{}, SimpleNamespace(history=None), SimpleNamespace()])
def test_no_history_is_told(empty, pl):
    with pytest.raises(ValueError, match=r"Train first: model.train\(\)"):
        pl.training(empty)


def test_unknown_metrics_are_told(pl):
    with pytest.raises(ValueError, match=r"it has \['accuracy'\], known are: loss"):
        pl.training(_history(accuracy=[1.0]))
