"""A whole comparison of cells: what methods are given, what is kept, what a second call does."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

import scjepa
from scjepa.benchmark import CellScoring, run_cells
from scjepa.benchmark.store import COLUMNS
from scjepa.benchmark.suites.cell_tasks import read_target, split


def test_models_and_fitted_methods_are_scored_alike_and_kept(cells, others, small, tmp_path):
    said: list[str] = []
    methods = ["celljepa", "reconstruction_only", "untrained", "hvg_pca"]
    call = {**small, "pretrain": {"other": others}, "methods": methods, "seeds": 2, "tasks": "zero_shot"}
    results = run_cells(cells, **call, out=tmp_path, say=said.append)
    assert list(results.rows.columns) == list(COLUMNS)
    assert results.runs["reason"].isna().all()
    table = results.table()
    assert list(table["method"]) == [name for name in methods[:3] for _ in range(2)] + ["hvg_pca"]
    assert set(table.loc[table["method"] == "celljepa", "readout"]) == {"cls", "genes"}
    assert table.loc[table["method"] == "hvg_pca", "knn_accuracy"].item() > 0.9
    assert (table["seeds"] == 2).all()
    expected = (table["nmi"] + table["ari"] + table["asw_scaled"]) / 3
    np.testing.assert_allclose(table["avg_bio"], expected)
    assert sum("pretraining" in line for line in said) == 4
    assert results.embeddings()["celljepa", "cls"].shape == (90, 32)

    again: list[str] = []
    second = run_cells(cells, **call, out=tmp_path, say=again.append)
    assert again == ["8 runs, 8 of them there already"]
    pd.testing.assert_frame_equal(second.rows, results.rows)

    further: list[str] = []
    both = {"tasks": ["zero_shot", "dropout"], "methods": "celljepa", "seeds": 1}
    run_cells(cells, **{**call, **both}, out=tmp_path, say=further.append)
    assert further[0] == "2 runs, 1 of them there already"
    assert not any("pretraining" in line for line in further)  # the models are there

    changed: list[str] = []
    longer = {**call, "training": replace(small["training"], max_steps=3), "methods": "celljepa"}
    third = run_cells(cells, **longer, out=tmp_path, say=changed.append)
    assert changed[0] == "2 runs, 0 of them there already"
    shown = third.table().query("method == 'celljepa' and task == 'zero_shot'")
    assert shown["configuration"].str.contains("max_steps=3").all()
    for name in ("results.csv", "runs.csv", "table.csv", "differences.csv", "table.md"):
        assert (tmp_path / name).is_file()


def test_other_cells_to_pretrain_on_are_another_result(cells, others, make_cells, small, tmp_path):
    call = {**small, "methods": "celljepa", "seeds": 1, "tasks": "zero_shot", "out": tmp_path}
    said: list[str] = []
    run_cells(cells, **call, pretrain={"x": others}, say=said.append)
    run_cells(cells, **call, pretrain={"x": make_cells(seed=2)}, say=said.append)  # of the same name
    run_cells(cells, **call, pretrain={"y": others}, say=said.append)
    assert [line for line in said if "already" in line] == ["1 runs, 0 of them there already"] * 3


def test_targets_may_share_models(cells, others, make_cells, small, tmp_path):
    said: list[str] = []
    call = {**small, "pretrain": {"other": others}, "methods": "celljepa", "seeds": 1, "tasks": "zero_shot"}
    shared = {**call, "training": replace(small["training"], models=tmp_path / "models")}
    run_cells(cells, **shared, out=tmp_path / "one", say=said.append)
    second = run_cells(make_cells(seed=5), **shared, out=tmp_path / "two", say=said.append)
    assert sum("pretraining" in line for line in said) == 1
    assert second.runs["cpu_seconds"].item() > 0
    assert not (tmp_path / "one" / "models").exists()
    alone = run_cells(make_cells(seed=5), **call)
    kept, new = (results.embeddings()["celljepa", "cls"] for results in (second, alone))
    np.testing.assert_allclose(kept, new, rtol=0, atol=1e-5)


def test_a_training_that_was_stopped_goes_on_where_it_was(cells, others, small, tmp_path, monkeypatch):
    call = {**small, "pretrain": {"other": others}, "methods": "celljepa", "seeds": 1, "tasks": "zero_shot"}
    call["training"] = replace(small["training"], max_steps=102)  # the state is kept every 100
    whole = run_cells(cells, **call).embeddings()["celljepa", "cls"]
    save = scjepa.CellJEPA.save

    def killed(self, *args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(scjepa.CellJEPA, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        run_cells(cells, **call, out=tmp_path)
    monkeypatch.setattr(scjepa.CellJEPA, "save", save)
    assert list(tmp_path.glob("models/*.state/*.ckpt"))
    done = run_cells(cells, **call, out=tmp_path)
    np.testing.assert_allclose(done.embeddings()["celljepa", "cls"], whole, rtol=0, atol=1e-6)
    assert not list(tmp_path.glob("models/*.state"))


def test_a_function_is_given_no_label_and_may_do_what_it_likes_with_its_copy(cells, small, good):
    seen = []

    def mine(adata, seed):
        seen.append((list(adata.obs), adata.n_obs, seed, adata.X.sum()))
        found = good(adata)
        adata.X[:] = 0
        return found

    total = cells.X.sum()
    tasks = ["zero_shot", "dropout"]
    results = run_cells(cells, **small, batch="plate", methods={"mine": mine}, tasks=tasks, seeds=2)
    assert [columns for columns, *_ in seen] == [["batch"]] * 6
    assert [seed for _, _, seed, _ in seen] == [0, 0, 0, 1, 1, 1]
    assert [counts == total for *_, counts in seen] == [True, True, False] * 2
    assert seen[2][-1] == pytest.approx(0.3 * total, rel=0.1)
    assert cells.X.sum() == total
    assert list(cells.obs) == ["cell_type", "plate"]
    assert list(cells.uns) == []
    table = results.table().set_index(["task", "group"])
    assert table.loc[("zero_shot", "all"), "knn_accuracy"] > 0.95
    assert table.loc[("dropout", "100%"), "neighbors"] == 1
    assert table.loc[("dropout", "30%"), "neighbors"] < 0.9
    assert table.loc[("dropout", "30%"), "label_accuracy"] < table.loc[("dropout", "100%"), "label_accuracy"]


def test_no_step_sees_a_test_cell_or_its_label(cells, small, monkeypatch):
    given: list[tuple[str, set, pd.Series]] = []

    def watch(name):
        before = getattr(scjepa.CellJEPA, name)

        def watched(self, *args, **kwargs):
            given.append((name, set(self.adata.obs_names), self.adata.obs["label"]))
            return before(self, *args, **kwargs)

        monkeypatch.setattr(scjepa.CellJEPA, name, watched)

    watch("train")
    watch("finetune")
    results = run_cells(cells, **small, methods=["celljepa", "hvg_pca"], tasks="finetune", seeds=1)
    train, test = split(read_target(cells, "cell_type"), 0.1, 42)
    hidden = set(cells.obs_names[test])
    assert [name for name, *_ in given] == ["train", "finetune"]
    for name, names, labels in given:
        assert names == set(cells.obs_names[train])
        assert not names & hidden
        assert labels.isna().all() if name == "train" else not labels.isna().any()
    table = results.table()
    assert list(table["group"]) == ["before fine-tuning"] * 2 + ["fine-tuned"] * 2 + ["fitted"]
    assert (table["n_cells"] == len(test)).all()
    assert results.runs["reason"].isna().all()


def test_fine_tuning_moves_the_embedding_and_keeps_the_token_limit(cells, small, monkeypatch):
    lengths = []
    before = scjepa.CellJEPA.finetune

    def watched(self, *args, **kwargs):
        lengths.append(self.config.tokens.n_tokens)
        return before(self, *args, **kwargs)

    monkeypatch.setattr(scjepa.CellJEPA, "finetune", watched)
    results = run_cells(cells, **small, methods="celljepa", tasks="finetune", seeds=1)
    assert lengths == [20]  # not the 3,000 of the read-out
    asw = results.table().set_index(["readout", "group"])["asw"]
    assert asw["cls", "fine-tuned"] != asw["cls", "before fine-tuning"]


def test_cells_are_embedded_by_as_many_genes_as_scoring_says(cells, small):
    few = {**small["training"].changes, "tokens": {"n_tokens": 20, "n_embedded": 20, "kept": "top"}}
    call = {
        **small,
        "training": replace(small["training"], changes=few),
        "methods": "untrained",
        "tasks": "zero_shot",
        "seeds": 1,
    }

    def embedding(**scoring):
        more = {"resolutions": (0.5,), "readouts": ("cls",), **scoring}
        return run_cells(cells, **{**call, "scoring": CellScoring(**more)}).embeddings()["untrained", "cls"]

    own = {"n_tokens": None, "kept": None}
    np.testing.assert_allclose(embedding(**own), embedding(n_tokens=20, kept="top"), atol=1e-5)
    assert not np.allclose(embedding(**own), embedding(n_tokens=20, kept="spread"), atol=1e-2)
    assert not np.allclose(embedding(**own), embedding(n_tokens=40, kept="top"), atol=1e-2)


def test_every_method_runs(cells, others, small, monkeypatch):
    asked = {}

    def suite(embedding, batches, labels, *, uncorrected, ignore):
        asked.setdefault("batches", sorted(set(batches)))
        asked["uncorrected"] = uncorrected.shape
        return pd.Series({"bio": 0.5, "batch": float(np.abs(embedding).mean()), "total": 0.5, "kbet": np.nan})

    monkeypatch.setattr("scjepa.benchmark.suites.cell_tasks.scib_suite", suite)
    results = run_cells(cells, **small, batch="plate", pretrain={"other": others}, seeds=1)
    assert results.runs["reason"].isna().all()
    assert asked["batches"] == ["p1", "p2"]
    assert asked["uncorrected"][0] == 90
    by_task = results.table().groupby("task")["method"].agg(lambda names: list(dict.fromkeys(names)))
    everything = ["celljepa", "reconstruction_only", "modules", "untrained", "untrained_modules", "hvg_pca", "scvi"]
    assert by_task["zero_shot"] == by_task["dropout"] == by_task["finetune"] == everything
    assert by_task["batches"] == [*everything, "harmony"]
    assert "kbet" not in set(results.rows["metric"])  # NaN is no value
    plain = results.embeddings("batches")
    assert not np.allclose(plain["harmony", "plain"], plain["hvg_pca", "plain"])
    text = results.markdown()
    for word in (
        "Zero-shot",
        "Fewer molecules",
        "Batches",
        "Fine-tuning",
        "CellJEPA − reconstruction only",
        "one seed",
    ):
        assert word in text
    assert "best of 1 resolutions" in text


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (lambda n: np.full((n, 2), np.nan), "NaN"),
        (lambda n: np.ones((n, 2)), "same values"),
        (lambda n: np.ones((3, 2)), "shape"),
        (lambda n: 1 / 0, "ZeroDivisionError"),
    ],
)
def test_a_method_that_gives_nothing_of_use_leaves_a_row_with_the_reason(cells, small, good, values, reason):
    methods = {"bad": lambda adata: values(adata.n_obs), "good": good}
    results = run_cells(cells, **small, methods=methods, tasks="zero_shot", seeds=1)
    table = results.table().set_index("method")
    assert reason in table.loc["bad", "reason"]
    assert table.loc["good", "avg_bio"] > 0.5
    assert "**Not measured**" in results.markdown()
    assert reason in results.markdown()


def test_what_failed_is_tried_again_and_what_changed_is_run_anew(cells, small, good, tmp_path):
    broken = {"yes": True}

    def mine(adata):
        if broken["yes"]:
            raise ValueError("not today")
        return good(adata)

    call = {**small, "tasks": "zero_shot", "seeds": 1, "out": tmp_path}
    said: list[str] = []
    run_cells(cells, **call, methods={"mine": mine}, say=said.append)
    broken["yes"] = False
    done = run_cells(cells, **call, methods={"mine": mine}, say=said.append)
    run_cells(cells, **call, methods={"mine": lambda adata: good(adata)}, say=said.append)
    assert [line for line in said if "already" in line] == ["1 runs, 0 of them there already"] * 3
    assert done.runs["reason"].isna().all()


def test_mistakes_are_told_before_anything_runs(cells, others, small, tmp_path):
    call = {**small, "methods": "hvg_pca", "tasks": "zero_shot", "seeds": 1}

    def told(match, kind=ValueError, **changes):
        with pytest.raises(kind, match=match):
            run_cells(changes.pop("target", cells), **{**call, "out": tmp_path / "o", **changes})
        assert not (tmp_path / "o").exists()

    told("obs\\['type'\\] does not exist; adata.obs holds 'cell_type', 'plate'", KeyError, label="type")
    told("obs\\['lab'\\] does not exist", KeyError, batch="lab")
    told("label and as batch", batch="cell_type")
    told("needs the obs column of batches", tasks="batches")
    told("Did you mean 'zero_shot'", tasks="zeroshot")
    told("Did you mean 'celljepa'", methods="celjepa")
    told("Did you mean 'max_epochs'", methods="scvi", options={"scvi": {"max_epoch": 3}})
    told("has modules as tokens", options={"modules": {"preset": "demo"}}, methods="modules")
    told("is the name of a method", methods={"scvi": lambda adata: adata})
    told("give a function", TypeError, methods={"mine": 3})
    told("harmony.*takes part", methods="harmony")
    told("There is one target", target={"a": cells, "b": others})
    told("must be a seed", seeds=0)
    foreign = others.copy()
    foreign.var_names = [f"ENSG{i}" for i in range(foreign.n_vars)]
    told("no gene of the target.*ENSG0.*GENE0", pretrain={"other": foreign})
    halves = cells.copy()
    halves.X = halves.X * 0.5
    told("whole, non-negative counts", target=halves)
    one = cells.copy()
    one.obs["cell_type"] = "T"
    told("1 kinds|of 1 kinds", target=one)
    twice = cells.copy()
    twice.var_names = ["GENE0", *twice.var_names[:-1]]
    told("var_names_make_unique", target=twice)


def test_a_folder_is_of_one_target_and_one_scoring(cells, others, small, tmp_path):
    call = {**small, "methods": "hvg_pca", "tasks": "zero_shot", "seeds": 1, "out": tmp_path}
    run_cells({"x": cells}, **call)
    with pytest.raises(ValueError, match="other data called 'target: x'"):
        run_cells({"x": others}, **call)
    with pytest.raises(ValueError, match="other options \\(resolutions"):
        run_cells({"x": cells}, **{**call, "scoring": CellScoring(resolutions=(1.0,), fractions=(0.3,))})


def test_cells_without_a_label_or_a_count_are_left_out(cells):
    cells.obs["cell_type"] = cells.obs["cell_type"].astype(str)
    cells.obs.loc[cells.obs_names[0], "cell_type"] = None
    cells.obs.loc[cells.obs_names[1], "cell_type"] = "Other"
    counts = cells.X.toarray()
    counts[2] = 0
    cells.X = counts
    target = read_target(cells, "cell_type", no_label=["Other"])
    assert list(target.adata.obs_names) == list(cells.obs_names[3:])
    assert set(target.labels) == {"T", "B", "NK"}


def test_the_split_is_within_labels_and_keeps_single_cells_for_training(cells):
    cells.obs["cell_type"] = cells.obs["cell_type"].astype(str)
    cells.obs.loc[cells.obs_names[7], "cell_type"] = "rare"
    target = read_target(cells, "cell_type")
    train, test = split(target, 0.1, 42)
    assert sorted([*train, *test]) == list(range(90))
    assert 7 in train
    assert len(test) == 9
    shares = pd.Series(target.labels[test]).value_counts() / 9 - pd.Series(target.labels).value_counts() / 90
    assert shares.dropna().abs().max() < 0.1
    np.testing.assert_array_equal(split(target, 0.1, 42)[1], test)
    assert not np.array_equal(split(target, 0.1, 1)[1], test)
