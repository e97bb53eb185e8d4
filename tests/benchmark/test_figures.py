"""Figures say what they are to say."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from scjepa.benchmark import Scoring, run
from scjepa.benchmark.figures import ablation_bars, agreement_against_mixing, normalization_families
from scjepa.metrics import nmi


def texts(figure) -> str:
    found = [text.get_text() for text in figure.findobj(match=lambda artist: hasattr(artist, "get_text"))]
    return "\n".join(found)


@pytest.fixture(scope="module")
def results(_tissue):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("scjepa.benchmark.score.ilisi", lambda values, batches: 0.5)
        other = _tissue[(_tissue.obs["section"] == "s1").to_numpy(), :10].copy()
        other.obs["technology"], other.obs["section"] = "U", "u1"
        other.obs_names = [f"u{i}" for i in range(other.n_obs)]
        methods = {
            "place": lambda adata: np.asarray(adata.obsm["spatial"]),
            "total": lambda adata: np.asarray(adata.X.sum(axis=1)),
            "halves": lambda adata: np.where(np.arange(adata.n_obs) % 2, "odd", "even"),
        }
        scoring = Scoring((1.0,), 1, ("plain",))
        yield run({"a": _tissue.copy(), "b": other}, label="region", methods=methods, seeds=1, scoring=scoring)


@pytest.fixture(scope="module")
def figures(results):
    return results.figures()


def test_every_task_has_its_figures(figures):
    assert set(figures) == {
        *(f"niches_{name}" for name in ("b_within", "a_sections", "a_b_technologies")),
        *(f"expressed_genes_{name}" for name in ("b_within", "a_sections", "a_b_technologies")),
        "umap_a_b_technologies",
        "nmi_ilisi_section_a_sections",
        "nmi_ilisi_technology_a_b_technologies",
    }


def test_maps_have_the_nmi_of_what_they_show_above_them(results, figures):
    task = next(task for task in results._tasks if task.kind == "within")
    key = next(key for key in results._store.keys if key.data == "b" and key.method == "place")
    clusters = results._store.arrays(key)["clusters_plain"]
    titles = [ax.get_title() for ax in figures["niches_b_within"].axes]
    assert titles[0] == "labels"
    assert titles[1] == f"place, plain\nNMI {nmi(task.labels, clusters):.2f}"
    assert titles[3].startswith("halves, own\nNMI 0.0")
    legend = figures["niches_b_within"].axes[-1].get_legend()
    names = [text.get_text() for text in legend.get_texts()]
    assert names[:2] == ["left", "right"]
    drawn = {tuple(color) for ax in figures["niches_b_within"].axes for color in ax.collections[0].get_facecolor()}
    assert len(names) == len(drawn)  # niches that are matched with no label have a color in the legend, too
    assert set(names[2:]) <= {"unmatched"}


def test_maps_of_several_sections_have_a_row_for_each_method(figures):
    axes = figures["niches_a_sections"].axes
    assert len(axes) == 8
    assert [ax.get_title().split(":")[0] for ax in axes[:2]] == ["s1", "s2"]
    assert axes[2].get_title().startswith("s1: place, plain\nNMI")
    titles = [ax.get_title() for ax in figures["niches_a_b_technologies"].axes]
    assert titles[:3] == ["s1 (T): labels", "s2 (T): labels", "u1 (U): labels"]


def test_umaps_are_colored_by_technology_and_by_label(figures):
    said = texts(figures["umap_a_b_technologies"])
    for word in ("place\nplain", "total\nplain", "technology", "labels", "T", "U", "left", "right"):
        assert word in said
    assert "halves" not in said  # clusters have no embedding


def test_mixing_is_drawn_with_the_weighted_agreement(results, figures):
    table = results.table_1()
    weighted = table[(table["group"] == "weighted by cells") & (table["method"] == "place")]
    ax = figures["nmi_ilisi_technology_a_b_technologies"].axes[0]
    drawn = {line.get_xydata()[0].tolist()[1] for line in ax.lines if len(line.get_xydata()) == 1}
    assert any(np.isclose(value, weighted["nmi"].iloc[0]) for value in drawn)
    assert "iLISI" in ax.get_xlabel()


def test_expressed_genes_tell_the_share_of_cells_that_fill_l(results, figures):
    said = texts(figures["expressed_genes_b_within"])
    assert "L=16" in said
    (ax,) = figures["expressed_genes_b_within"].axes
    (bars,) = ax.patches
    heights, edges, _ = bars.get_data()
    assert (heights * np.diff(edges)).sum() == pytest.approx(40)  # each cell is counted once, whatever the bins' widths
    assert "0%" in said


def table_2_rows(**columns) -> pd.DataFrame:
    n = len(next(iter(columns.values())))
    return pd.DataFrame({"reason": [None] * n, "group": ["T"] * n, **columns})


def test_bars_of_an_axis_have_four_metrics_and_mark_the_default():
    table = table_2_rows(
        axis=["L"] * 4,
        value=["16", "32", "16", "32"],
        default=[True, False] * 2,
        group=["T", "T", "U", "U"],
        nmi=[0.5, 0.6, 0.4, 0.7],
        ari=[0.4] * 4,
        nmi_matched=[0.3] * 4,
        ari_matched=[0.2] * 4,
        nmi_std_seeds=[0.1, np.nan, 0.1, 0.1],
    )
    figure = ablation_bars(table, "L")
    assert len(figure.axes) == 8
    assert [ax.get_title() for ax in figure.axes[:4]] == ["NMI", "ARI", "NMI matched", "ARI matched"]
    assert [patch.get_height() for patch in figure.axes[0].patches] == [0.5, 0.6]
    colors = [patch.get_facecolor() for patch in figure.axes[0].patches]
    assert colors[0] != colors[1]
    assert ablation_bars(table, "ρ") is None


def test_bars_say_the_read_out_and_leave_no_row_empty():
    carried = table_2_rows(
        axis=["L"] * 3,
        value=["16", "16", "16"],
        default=[True] * 3,
        group=["T", "weighted by cells", "T to U"],
        readout=["hops"] * 3,
        nmi=[0.5, 0.5, np.nan],
        ari=[0.4, 0.4, np.nan],
        ilisi_technology=[np.nan, 0.1, np.nan],
        mmd_technology=[np.nan, 0.1, np.nan],
        transfer_accuracy=[np.nan, np.nan, 0.7],
    )
    figure = ablation_bars(carried, "L")
    assert len(figure.axes) == 8
    assert figure.get_suptitle() == "L, read-out: hops"
    assert figure.axes[4].get_xlabel() == "L"


def test_points_of_all_read_outs_are_within_the_panels():
    table = pd.DataFrame(
        {
            "method": "m",
            "settings": "own",
            "readout": ["plain", "z30", "hops"],
            "nmi": [0.6, 0.5, 0.2],
            "ilisi_technology": [0.0, 0.1, 0.9],
        }
    )
    for ax in agreement_against_mixing(table, "ilisi_technology").axes:
        (x0, x1), (y0, y1) = ax.get_xlim(), ax.get_ylim()
        assert x0 < 0.0
        assert x1 > 0.9
        assert y0 < 0.2
        assert y1 > 0.6


def test_normalizations_are_drawn_in_three_families():
    names = ["counts", "log"]
    pairs = [(a, b) for a in names for b in names]
    table = table_2_rows(
        axis=["tokens.values × tokens.ranks"] * 4,
        value=[" × ".join(pair) for pair in pairs],
        default=[pair == ("counts", "counts") for pair in pairs],
        nmi=[0.1, 0.2, 0.3, 0.4],
        ari=[0.1, 0.2, 0.3, 0.4],
    )
    figure = normalization_families(table)
    heights = [[patch.get_height() for patch in ax.patches] for ax in figure.axes[:3]]
    assert heights == [[0.1, 0.3], [0.1, 0.2], [0.1, 0.4]]
    untold = figure.get_suptitle()
    told = normalization_families(table.assign(readout="hops", nmi_untrained=0.1)).get_suptitle()
    assert "line" not in untold
    assert told == f"{untold}, read-out: hops, line: untrained"
    assert normalization_families(table.assign(default=False)) is None


def test_nothing_measured_is_no_figure():
    empty = pd.DataFrame({"nmi": [np.nan], "ilisi_section": [np.nan]})
    assert agreement_against_mixing(empty, "ilisi_section") is None
