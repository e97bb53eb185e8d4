"""Tables: means, and how far each cause moves them."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from scjepa.benchmark import occupancy
from scjepa.benchmark.store import COLUMNS, Level
from scjepa.benchmark.suites.sections import markdown_1, markdown_2, table_1, table_2, tidy_values, verdicts_of
from scjepa.benchmark.table import summarize
from scjepa.metrics import clustering_scores

RUN = {"settings": "same graph", "configuration": "base", "readout": "plain"}
RUNS = pd.DataFrame({"versions": ["python=3.13.0 scib-metrics=0.6.1", "scib-metrics=0.5.10"]})


def rows_of(values: dict, **more) -> list[dict]:
    """Return rows of scores by (seed, leiden seed, resolution)."""
    took = {"seconds": 2.0, "cpu_seconds": 1.0, "peak_gib": 0.5}
    return [
        {**RUN, **took, "seed": s, "leiden_seed": leiden, "resolution": r, "value": value, **more}
        for (s, leiden, r), value in values.items()
    ]


def tidy(*parts: list[dict]) -> pd.DataFrame:
    table = pd.DataFrame([row for part in parts for row in part], columns=list(COLUMNS))
    return table.assign(reason=table["reason"].astype(object).where(table["reason"].notna(), None))


@pytest.fixture
def scores() -> np.ndarray:
    """Return scores of 3 seeds × 2 Leiden seeds × 4 resolutions × 2 technologies."""
    return np.random.default_rng(0).random((3, 2, 4, 2))


@pytest.fixture
def rows(scores) -> pd.DataFrame:
    def values(technology: int) -> dict:
        return {(s, leiden, r / 10): scores[s, leiden, r, technology] for s, leiden, r in np.ndindex(3, 2, 4)}

    case = {"data": "a × b", "task": "technologies", "method": "m", "metric": "nmi"}
    return tidy(
        rows_of(values(0), group="T", n_cells=30, **case),
        rows_of(values(1), group="U", n_cells=10, **case),
        rows_of(
            {(s, None, None): s for s in range(3)}, group="all", n_cells=40, **{**case, "metric": "ilisi_technology"}
        ),
    )


def test_spreads_over_resolutions_seeds_and_leiden_are_told_apart(rows, scores):
    table = table_1(rows).set_index("group")
    for technology, name in enumerate("TU"):
        own = scores[..., technology]
        assert table.loc[name, "nmi"] == pytest.approx(own.mean())
        assert table.loc[name, "nmi_std_seeds"] == pytest.approx(own.mean(axis=(1, 2)).std(ddof=1))
        assert table.loc[name, "nmi_std_leiden"] == pytest.approx(own.mean(axis=(0, 2)).std(ddof=1))
        assert table.loc[name, "nmi_std_resolutions"] == pytest.approx(own.mean(axis=(0, 1)).std(ddof=1))
    assert table.loc["all", "ilisi_technology"] == 1
    assert table.loc["all", "ilisi_technology_std_seeds"] == 1
    assert (table["seeds"] == 3).all()
    assert table.loc["T", "seconds"] == 2


def test_technologies_are_weighted_by_cells_before_spreads_are_taken(rows, scores):
    weighted = 0.75 * scores[..., 0] + 0.25 * scores[..., 1]
    row = table_1(rows).set_index("group").loc["weighted by cells"]
    assert row["nmi"] == pytest.approx(weighted.mean())
    assert row["n_cells"] == 40
    assert row["nmi_std_seeds"] == pytest.approx(weighted.mean(axis=(1, 2)).std(ddof=1))
    assert row["nmi_std_resolutions"] == pytest.approx(weighted.mean(axis=(0, 1)).std(ddof=1))


@pytest.mark.usefixtures("no_mixing")
def test_weighted_scores_are_those_of_the_metric(tissue, other):
    from scjepa.benchmark import Scoring, run

    def mine(adata, seed):
        return np.asarray(adata.obsm["spatial"]) + np.random.default_rng(seed).normal(0, 20, (adata.n_obs, 2))

    scoring = Scoring((0.6, 1.0), 2, ("plain",))
    data = {"a": tissue, "b": other}
    results = run(data, label="region", methods={"m": mine}, tasks="technologies", seeds=2, scoring=scoring)
    (task,) = results._tasks
    given = [mine(task.adata, seed) for seed in range(2)]
    options = {"resolutions": (0.6, 1.0), "seeds": range(2), "groups": task.technologies, "weighted": True}
    rows = pd.concat(clustering_scores(x.astype(np.float32), task.labels, matched=False, **options) for x in given)
    expected = rows.groupby("group")[["nmi", "ari"]].mean()
    found = results.table_1().set_index("group").rename(index={"weighted by cells": "weighted"})
    pd.testing.assert_frame_equal(
        found.loc[expected.index, ["nmi", "ari"]], expected, check_names=False, check_dtype=False
    )


def test_data_taken_by_themselves_are_weighted_too_and_sections_of_a_set_are_not_counted_twice():
    def one(data, task, value, n_cells, method="m"):
        case = {"data": data, "task": task, "method": method, "metric": "nmi", "group": "T"}
        return rows_of({(0, 0, 1.0): value}, n_cells=n_cells, **case)

    parts = [one("V", "within", 0.2, 10), one("W", "sections", 0.8, 30), one("W: 1", "within", 0.0, 15)]
    table = table_1(tidy(*parts, one("V", "within", 0.5, 10, method="half")))
    row = table[table["data"] == "weighted by cells"]
    assert row["nmi"].tolist() == pytest.approx([0.65])
    assert row["method"].tolist() == ["m"]


def test_the_matched_resolution_is_no_cause_of_spread():
    case = {"data": "a", "task": "within", "method": "m", "group": "T", "n_cells": 9, "metric": "nmi_matched"}
    table = summarize(tidy_values(tidy(rows_of({(0, 0, 0.3): 0.5, (1, 0, 0.7): 0.7}, **case))))
    assert table["value"].tolist() == [0.6]
    assert table["std_resolutions"].isna().all()
    assert table["std_seeds"].iloc[0] == pytest.approx(np.std([0.5, 0.7], ddof=1))


def test_the_version_of_ilisi_stands_beside_its_tables_alone(rows):
    table = table_1(rows)
    told = "iLISI: scib-metrics 0.5.10 and 0.6.1; values of 0.5 and 0.6 are not compared."
    assert told in markdown_1(table, RUNS).splitlines()
    assert "scib-metrics" not in markdown_1(table.loc[:, ~table.columns.str.startswith("ilisi")], RUNS)
    older = pd.DataFrame({"versions": ["scanpy=1.11.5"]})
    assert "iLISI: scib-metrics a version that was not kept;" in markdown_1(table, older)


def test_what_failed_has_a_row_with_the_reason_in_table_and_text(rows):
    bad = {"data": "a × b", "task": "technologies", "method": "peer", "settings": "tutorial", "configuration": "-"}
    both = tidy(rows.to_dict("records"), [{**bad, "seed": 0, "reason": "No module named peer | try"}])
    table = table_1(both)
    (row,) = table[table["method"] == "peer"].to_dict("records")
    assert row["reason"] == "No module named peer | try"
    assert np.isnan(row["nmi"])
    text = markdown_1(table, RUNS)
    assert "No module named peer \\| try" in text
    assert "**a × b** (technologies), T, 30 cells: embedding as it is" in text


def test_a_reason_that_holds_for_many_is_told_once_with_their_names(rows):
    why = {"data": "a × b", "task": "technologies", "group": "U", "seed": 0, "reason": "No cell has a label."}
    case = {**why, "settings": "own", "configuration": "-"}
    many = [{**case, "method": method, "readout": readout} for method in ("one", "two") for readout in ("plain", "z30")]
    text = markdown_1(table_1(tidy(rows.to_dict("records"), many)), RUNS)
    assert text.count("No cell has a label.") == 1
    assert "| a × b | technologies | one, two | own | - | plain, z30 | U | No cell has a label. |" in text


def test_only_failures_still_make_a_table():
    bad = {"data": "a", "task": "within", "method": "peer", "settings": "tutorial", "configuration": "-"}
    table = table_1(tidy([{**bad, "seed": 0, "reason": "missing"}]))
    assert table["reason"].tolist() == ["missing"]
    assert "missing" in markdown_1(table, RUNS)


def test_table_2_has_the_default_in_every_axis_and_says_how_many_cells_fill_l():
    def one(configuration, value):
        case = {"data": "a", "task": "within", "method": "stjepa", "group": "T", "n_cells": 9, "metric": "nmi"}
        return [{**row, "configuration": configuration} for row in rows_of({(0, 0, 1.0): value}, **case)]

    levels = [
        Level("tokens.n_tokens", "16", "demo", True),
        Level("tokens.n_tokens", "64", "demo, tokens.n_tokens=64", False),
        Level("masking.ratio", "0.6", "demo", True),
    ]
    full = occupancy(np.triu(np.ones((32, 32))), np.full(32, "T"), lengths=(16, 64)).assign(data="a")
    table = table_2(tidy(one("demo", 0.5), one("demo, tokens.n_tokens=64", 0.4)), levels, full)
    assert table["value"].tolist() == ["16", "64", "0.6"]
    assert table["nmi"].tolist() == [0.5, 0.4, 0.5]
    assert table["share_full"].tolist()[:2] == [17 / 32, 0]
    text = markdown_2(table, RUNS)
    assert "| tokens.n_tokens | 16 (default) | 0.500 |" in text
    assert "cells that fill L" in text
    assert table_2(tidy(one("demo", 0.5)), []).empty


def test_table_2_tells_each_level_against_the_default_seed_by_seed():
    def one(configuration, values):
        case = {"data": "a", "task": "within", "method": "stjepa", "group": "T", "n_cells": 9, "metric": "nmi"}
        found = {(seed, leiden, 1.0): value for seed, value in values.items() for leiden in (0, 1)}
        return [{**row, "configuration": configuration} for row in rows_of(found, **case)]

    levels = [
        Level("masking.ratio", "0.6", "demo", True),
        Level("masking.ratio", "0.3", "demo, masking.ratio=0.3", False),
    ]
    # The third seed of the level is not there yet: only what both have is compared.
    rows = tidy(one("demo", {0: 0.5, 1: 0.7, 2: 0.1}), one("demo, masking.ratio=0.3", {0: 0.48, 1: 0.7}))
    table = table_2(rows, levels).set_index("value")
    assert table.loc["0.3", "nmi_change"] == pytest.approx(-0.01)
    assert table.loc["0.3", "nmi_change_std_seeds"] == pytest.approx(np.std([-0.02, 0.0], ddof=1))
    assert np.isnan(table.loc["0.6", "nmi_change"])
    assert "-0.010 ± 0.014" in markdown_2(table.reset_index(), RUNS)
    assert "nmi_change" not in table_2(tidy(one("demo", {0: 0.5})), levels[:1])


def test_table_2_says_which_levels_did_not_train_well():
    def one(configuration, value):
        case = {"data": "a", "task": "within", "method": "stjepa", "group": "T", "n_cells": 9, "metric": "nmi"}
        return [{**row, "configuration": configuration} for row in rows_of({(0, 0, 1.0): value}, **case)]

    levels = [Level("masking.ratio", "0.6", "demo", True), Level("masking.ratio", "0.9", "demo, 0.9", False)]
    run = {"data": "a", "task": "within", "method": "stjepa", "reason": None}
    said = {"demo": ["healthy", "healthy"], "demo, 0.9": ["collapsed", "healthy", "shrinking"]}
    runs = [{**run, "configuration": c, "info": json.dumps({"verdict": v})} for c, vs in said.items() for v in vs]
    runs.append({**run, "configuration": "demo, 0.9", "info": "{}", "reason": "killed"})
    rows = tidy(one("demo", 0.5), one("demo, 0.9", 0.4))
    table = table_2(rows, levels, verdicts=verdicts_of(pd.DataFrame(runs)))
    assert table["verdict"].tolist() == ["healthy", "collapsed (1 of 3), shrinking (1 of 3)"]
    assert markdown_2(table, RUNS).splitlines()[-1].endswith("| collapsed (1 of 3), shrinking (1 of 3) |")
    well = table_2(rows, levels, verdicts=verdicts_of(pd.DataFrame(runs[:2])))
    assert "training" not in markdown_2(well, RUNS)


def test_occupancy_counts_cells_that_express_as_many_genes():
    counts = np.array([[1, 2, 3, 4], [5, 0, 0, 0], [0, 0, 0, 0], [1, 1, 0, 0]])
    table = occupancy(counts, ["a", "a", "b", "b"], lengths=(1, 2, 4)).set_index(["group", "n_tokens"])
    assert table.loc[("a", 2), "share_full"] == 0.5
    assert table.loc[("a", 2), "mean_fill"] == 0.75
    assert table.loc[("b", 1), "share_full"] == 0.5
    assert table.loc[("b", 4), "mean_fill"] == 0.25
    assert table.loc[("a", 1), "median_genes"] == 2.5
    assert set(occupancy(counts)["group"]) == {"all"}
    with pytest.raises(ValueError, match="groups has 1 entries"):
        occupancy(counts, ["a"])
    with pytest.raises(ValueError, match="lengths must be positive"):
        occupancy(counts, lengths=(0,))
