"""A whole comparison: what methods are given, what is kept, what a second call does."""

from __future__ import annotations

import functools
import json
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse

import scjepa
from scjepa._core.files import whole
from scjepa.benchmark import run
from scjepa.benchmark.score import score
from scjepa.benchmark.store import COLUMNS, Store

TINY = {
    "tokens": {"n_tokens": 8, "n_neighbors": 5},
    "encoder": {"width": 32, "n_layers": 1, "n_heads": 2},
    "training": {"max_steps": 2, "batch_size": 16},
    "accelerator": "cpu",
}

LABELS_SEEN = """
import anndata
adata = anndata.read_h5ad(folder / "input.h5ad")
text = repr([(key, list(map(str, adata.obs[key]))) for key in adata.obs]) + repr([list(adata.uns), list(adata.obsm)])
text += (folder / "arguments.json").read_text()
took = {"seconds": 1.0, "cpu_seconds": 0.7, "peak_gib": 1.0, "versions": {}}
n = adata.n_obs
write(about={**took, "info": {"saw": text, "columns": list(adata.obs)}}, embedding=np.arange(2 * n).reshape(n, 2))
"""


@pytest.mark.usefixtures("no_mixing")
def test_a_peers_process_is_given_no_label(tissue, fake_python, monkeypatch, quick):
    tissue.obs["truth"] = tissue.obs["region"]
    monkeypatch.setenv("SCJEPA_PEERS_PYTHON", fake_python(LABELS_SEEN))
    results = run(tissue, label="region", methods="banksy", seeds=1, scoring=quick)
    for info in map(json.loads, results.runs["info"]):
        assert info["columns"] == ["section", "technology"]
        assert "left" not in info["saw"]
        assert "region" not in info["saw"]
    assert results.failures().empty


def test_a_function_is_given_no_label_and_may_do_what_it_likes_with_its_copy(tissue, quick, by_place):
    seen = []

    def mine(adata):
        seen.append((list(adata.obs), adata.shape, adata.X.sum()))
        adata.X[:] = 0
        adata.obs["section"] = "gone"
        return by_place(adata)

    before = tissue.X.copy()
    results = run(tissue, label="region", methods={"mine": mine}, tasks="within", scoring=quick, seeds=2)
    sections = tissue.obs["section"].to_numpy()
    assert seen == [(["section", "technology"], (40, 15), before[sections == s].sum()) for s in ("s1", "s2")]
    assert (tissue.X != before).nnz == 0
    assert list(tissue.obs) == ["section", "technology", "region"]
    table = results.table_1().set_index(["data", "group"])
    assert (table["nmi_matched"] > 0.5).all()
    assert (table["seeds"] == 1).all()  # it knows no seed


@pytest.mark.usefixtures("no_mixing")
def test_across_technologies_methods_embed_by_shared_genes(tissue, other, quick, by_place):
    seen = {}

    def narrow(adata):
        seen["narrow"] = list(adata.var_names)
        return by_place(adata)

    def wide(adata, genes):
        seen["wide"], seen["genes"] = adata.n_vars, genes
        return by_place(adata)

    methods = {"narrow": narrow, "wide": wide, "stjepa": TINY}
    data = {"a": tissue, "b": other}
    results = run(data, label="region", methods=methods, tasks="technologies", seeds=1, preset="demo", scoring=quick)
    shared = sorted(set(tissue.var_names) & set(other.var_names))
    assert seen == {"narrow": shared, "wide": 20, "genes": shared}
    assert results.failures().empty
    ours = results.table_1().query("method == 'stjepa'")
    assert list(ours["group"]) == ["T", "U", "all", "weighted by cells", "T to U", "U to T"]
    assert ours["ilisi_technology"].notna().sum() == 1
    assert f"iLISI: scib-metrics {metadata.version('scib-metrics')};" in results.markdown()


def test_tidy_results_have_a_row_for_each_value(tissue, quick, by_place):
    results = run(tissue, label="region", methods={"mine": by_place}, tasks="within", seeds=1, scoring=quick)
    assert list(results.rows.columns) == list(COLUMNS)
    nmi = results.rows.query("metric == 'nmi'")
    assert len(nmi) == 2
    assert (nmi["resolution"] == 1.0).all()
    assert nmi["seconds"].notna().all()
    assert nmi["peak_gib"].notna().all()
    assert nmi["reason"].isna().all()
    assert results.embedding("mine", "data 1: s1").shape == (40, 2)
    with pytest.raises(KeyError, match="There is no embedding 'hops'"):
        results.embedding("mine", "data 1: s1", readout="hops")


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (lambda n: np.full((n, 2), np.nan), "NaN"),
        (lambda n: np.ones((n, 2)), "same values"),
        (lambda n: np.ones((3, 2)), "shape"),
        (lambda n: None, "neither an embedding nor clusters"),
        (lambda n: 1 / 0, "ZeroDivisionError"),
        (lambda n: sparse.csr_matrix(np.ones((n, 2))), "toarray"),
        (lambda n: np.arange(2.0 * n).reshape(n, 2) * 1e30, "lost in 32 bits"),
        (lambda n: np.arange(2.0 * n).reshape(n, 2) * 1e-30, "lost in 32 bits"),
        (lambda n: np.arange(2.0 * n).reshape(n, 2) * 1e200, "infinite"),
        (lambda n: np.where(np.arange(n) < 3, np.nan, 1.0), "3 of 40 cells have no cluster"),
        (lambda n: pd.Categorical(["a", None] * (n // 2)), "20 of 40 cells have no cluster"),
        (lambda n: np.linspace(0, 1, n), r"not an integer. An embedding has the shape .n_cells, n_dims."),
        (lambda n: np.linspace(0, 1, n).astype(object), "clusters are whole numbers or names"),
        (lambda n: (np.ones((n, 2)), np.ones(n)), "returned a tuple; return one array"),
        (lambda n: [np.ones((n, 2)), np.ones(n)], "returned a list; return one array"),
        (lambda n: {"latent": np.ones((n, 2))}, "returned a dict; return one array"),
        (lambda n: AnnData(np.ones((n, 2))), "returned a AnnData; return one array"),
    ],
)
def test_a_method_that_gives_nothing_of_use_leaves_a_row_with_the_reason(tissue, quick, by_place, values, reason):
    methods = {"bad": lambda adata: values(adata.n_obs), "good": by_place}
    results = run(tissue, label="region", methods=methods, tasks="within", seeds=1, scoring=quick)
    failed = results.failures()
    assert set(failed["method"]) == {"bad"}
    assert failed["reason"].str.contains(reason).all()
    assert failed["reason"].iloc[0] in results.markdown()
    assert results.table_1().query("method == 'good'")["nmi"].notna().all()


def test_scores_that_fail_leave_a_row_with_the_reason(tissue, quick, by_place, monkeypatch):
    def fails(task, result, scoring, resolution):
        if result.method == "bad":
            raise np.linalg.LinAlgError("SVD did not converge")
        return score(task, result, scoring, resolution)

    monkeypatch.setattr("scjepa.benchmark.suites.sections.score", fails)
    methods = {"bad": lambda adata: by_place(adata), "good": by_place}
    results = run(tissue, label="region", methods=methods, tasks="within", seeds=1, scoring=quick)
    told = "It could not be scored. LinAlgError: SVD did not converge"
    assert set(results.failures()["reason"]) == {told}
    reasons = results.runs.set_index("method")["reason"]
    assert set(reasons.loc[["bad"]]) == {told}
    assert reasons.loc[["good"]].isna().all()
    assert results.table_1().query("method == 'good'")["nmi"].notna().all()


def _no_shared_gene(tissue, other):
    other.var_names = [f"ENS{i}" for i in range(other.n_vars)]
    return {"a": tissue, "b": other}


def _one_niche(tissue, other):
    tissue.obs["region"] = "cortex"
    return tissue


def _no_label(tissue, other):
    tissue.obs["region"] = np.nan
    return tissue


def _no_count(tissue, other):
    tissue.X = tissue.X.astype(np.float32)
    tissue.X[0, 0] = np.nan
    return tissue


def _one_section(tissue, other):
    return other


@pytest.mark.parametrize("change", [_no_shared_gene, _one_niche, _no_label, _no_count, _one_section])
def test_what_cannot_be_compared_is_an_error_that_leaves_nothing(tissue, other, by_place, tmp_path, change):
    called = []

    def mine(adata):
        called.append(adata)
        return by_place(adata)

    data = change(tissue, other)
    tasks = "sections" if change is _one_section else "auto"
    with pytest.raises(ValueError, match=r"[a-z]"):
        run(data, label="region", methods={"mine": mine}, tasks=tasks, seeds=1, out=tmp_path / "out")
    assert not called
    assert not (tmp_path / "out").exists()


def test_one_section_is_scored_without_mixing(other, quick, tmp_path):
    methods = ["neighborhood_pca", "section_zscored_pca", "harmony_pca"]
    results = run(other, label="region", methods=methods, seeds=1, scoring=quick, out=tmp_path / "out")
    assert results.failures().empty
    table = results.table_1()
    assert table["nmi"].notna().all()
    assert not [name for name in table if name.startswith(("ilisi", "mmd"))]


def test_one_shared_gene_is_told_by_controls_that_need_more(tissue, other, quick, no_mixing):
    other.var_names = ["Gene5", *[f"Own{i}" for i in range(other.n_vars - 1)]]
    data = {"a": tissue, "b": other}
    results = run(data, label="region", methods="neighborhood_pca", tasks="technologies", seeds=1, scoring=quick)
    assert results.runs["reason"].str.contains("2 genes or more, found .120, 1.").all()


def test_one_niche_of_a_method_agrees_with_nothing(tissue, quick, tmp_path):
    methods = {"one": lambda adata: np.zeros(adata.n_obs, dtype=int)}
    results = run(tissue, label="region", methods=methods, tasks="within", seeds=1, scoring=quick, out=tmp_path)
    (row,) = results.table_1().query("data == 'data 1: s1'").to_dict("records")
    assert (row["nmi_matched"], row["ari_matched"]) == (0, 0)
    assert (row["like_neighbors"], row["pas"]) == (1, 0)  # the best there is: the tables' page says so
    assert results.write_figures(tmp_path / "figures")


def test_a_method_that_needs_more_says_so_in_its_row(tissue, quick):
    results = run(tissue, label="region", methods="nicheformer", tasks="within", seeds=1, scoring=quick)
    assert results.runs["reason"].str.contains("checkpoint").all()


def counted(adata, seed, log: Path):
    """Note each run, and stop the whole comparison at the fourth."""
    runs = log.read_text().split() if log.exists() else []
    log.write_text(" ".join([*runs, "stop" if len(runs) == 3 else str(seed)]))
    if len(runs) == 3:
        raise KeyboardInterrupt
    return np.asarray(adata.obsm["spatial"]) + seed


def test_a_stopped_comparison_goes_on_and_finished_runs_are_not_run_again(tissue, quick, tmp_path):
    log, tmp_path = tmp_path / "log", tmp_path / "out"

    def compare():
        methods = {"m": functools.partial(counted, log=log)}
        return run({"a": tissue}, label="region", methods=methods, tasks="within", seeds=2, scoring=quick, out=tmp_path)

    with pytest.raises(KeyboardInterrupt):
        compare()
    assert log.read_text() == "0 0 1 stop"  # the first seed of both sections, then the second
    assert len(list((tmp_path / "runs").glob("*.json"))) == 3
    assert not list(tmp_path.rglob(".*"))
    results = compare()
    assert log.read_text() == "0 0 1 stop 1"
    assert len(results.runs) == 4
    again = compare()
    assert log.read_text() == "0 0 1 stop 1"
    pd.testing.assert_frame_equal(again.rows, pd.concat([results.rows]).reset_index(drop=True), check_like=True)
    written = pd.read_csv(tmp_path / "results.csv")
    assert list(written.columns) == list(COLUMNS)
    assert len(written) == len(again.rows)
    assert {"table1.csv", "table1.md", "runs.csv", "benchmark.json"} <= {path.name for path in tmp_path.iterdir()}


def test_what_failed_is_tried_again_and_a_damaged_file_is_run_anew(tissue, quick, tmp_path):
    broken = True

    def mine(adata):
        if broken:
            raise RuntimeError("no luck")
        return adata.obsm["spatial"]

    options = {"label": "region", "methods": {"mine": mine}, "tasks": "within", "scoring": quick, "out": tmp_path}
    assert len(run({"a": tissue}, **options).failures()) == 2
    broken = False
    results = run({"a": tissue}, **options)
    assert results.failures().empty
    file = next((tmp_path / "runs").glob("*.json"))
    file.write_text(file.read_text()[:40])
    assert len(run({"a": tissue}, **options).runs) == 2


def test_a_folder_is_of_one_scoring_and_one_data(tissue, quick, by_place, tmp_path):
    options = {"label": "region", "methods": {"m": by_place}, "tasks": "within", "out": tmp_path}
    run({"a": tissue}, scoring=quick, **options)
    with pytest.raises(ValueError, match=r"made with other options .resolutions"):
        run({"a": tissue}, scoring=scjepa.benchmark.Scoring((0.5,), 1, ("plain",)), **options)
    tissue.X[0, 0] += 1
    with pytest.raises(ValueError, match="other data called 'within: a: s1'"):
        run({"a": tissue}, scoring=quick, **options)


def test_ones_own_function_is_run_anew_when_it_was_changed(tissue, quick, tmp_path):
    options = {"label": "region", "tasks": "within", "scoring": quick, "out": tmp_path, "seeds": 1}
    one = run({"a": tissue}, methods={"m": lambda adata: adata.obsm["spatial"][:, :1]}, **options)
    two = run({"a": tissue}, methods={"m": lambda adata: adata.obsm["spatial"][:, 1:]}, **options)
    assert len(one.runs) == len(two.runs) == 2
    assert set(one.runs["code"]).isdisjoint(two.runs["code"])


@pytest.mark.parametrize("form", ["partial", "object", "closure", "default", "exec"])
def test_ones_own_function_is_run_anew_when_what_it_rests_on_was_changed(tissue, quick, tmp_path, form):
    options = {"label": "region", "tasks": "within", "scoring": quick, "out": tmp_path, "seeds": 1}
    embeddings = {}
    for axis in (0, 1):
        results = run({"a": tissue}, methods={"m": along(axis)[form]}, **options)
        embeddings[axis] = results.embedding("m", "a: s1")
    place = tissue.obsm["spatial"][tissue.obs["section"] == "s1"]
    for axis in (0, 1):
        np.testing.assert_allclose(embeddings[axis], place[:, axis : axis + 1], rtol=1e-6)


def _along(adata, axis):
    return adata.obsm["spatial"][:, axis : axis + 1]


class _Along:
    def __init__(self, axis: int):
        self.axis = axis

    def __call__(self, adata):
        return _along(adata, self.axis)


def along(axis: int) -> dict:
    """Return functions that embed by one of the coordinates, of one source for all of them."""
    made: dict = {}
    exec(f"def mine(adata):\n    return adata.obsm['spatial'][:, {axis} : {axis} + 1]", made)
    return {
        "partial": functools.partial(_along, axis=axis),
        "object": _Along(axis),
        "closure": lambda adata: _along(adata, axis),
        "default": lambda adata, axis=axis: _along(adata, axis),
        "exec": made["mine"],
    }


def test_a_function_that_cannot_be_told_is_run_each_time(tissue, quick, tmp_path):
    rng, calls = np.random.default_rng(0), tmp_path / "calls"

    def mine(adata):
        with calls.open("a") as file:
            file.write("x")
        return rng.random((adata.n_obs, 2))

    for n_calls in (2, 4):
        run(tissue, label="region", methods={"m": mine}, tasks="within", seeds=1, scoring=quick, out=tmp_path / "out")
        assert len(calls.read_text()) == n_calls


def test_tables_have_what_another_process_finished_meanwhile(tissue, quick, by_place, tmp_path):
    options = {"label": "region", "tasks": "within", "scoring": quick, "seeds": 1, "out": tmp_path}

    def first(adata):  # the other one begins and ends while this one runs
        run({"a": tissue}, methods={"second": by_place}, **options)
        return by_place(adata)

    results = run({"a": tissue}, methods={"first": first}, **options)
    assert list(dict.fromkeys(results.runs["method"])) == ["first", "second"]
    for name in ("results.csv", "table1.csv"):
        assert set(pd.read_csv(tmp_path / name)["method"]) == {"first", "second"}
    # One that ended before another did writes its tables once more, as the command does beside figures.
    run({"a": tissue}, methods={"third": by_place}, **options)
    results.write(tmp_path)
    assert set(pd.read_csv(tmp_path / "results.csv")["method"]) == {"first", "second", "third"}


def test_what_processes_note_at_once_is_kept(tmp_path, monkeypatch):
    @contextmanager
    def slowly(path):
        time.sleep(0.1)  # between reading and writing
        with whole(path) as part:
            yield part

    monkeypatch.setattr("scjepa.benchmark.store.whole", slowly)
    names = ["a", "b", "c"]
    with ThreadPoolExecutor(len(names)) as pool:
        list(pool.map(lambda name: Store(tmp_path).claim({"label": "x"}, {name: "1"}, []), names))
    assert set(json.loads((tmp_path / "benchmark.json").read_text())["tasks"]) == set(names)


@pytest.mark.parametrize("name", ["results.csv", "table1.md"])
def test_tables_of_something_else_are_not_overwritten(tissue, by_place, quick, tmp_path, name):
    called = []

    def mine(adata):
        called.append(adata)
        return by_place(adata)

    (tmp_path / name).write_text("mine")
    options = {"label": "region", "methods": {"m": mine}, "tasks": "within", "seeds": 1, "scoring": quick}
    with pytest.raises(ValueError, match=rf"has {name} and no benchmark.json.*Name another folder"):
        run(tissue, out=tmp_path, **options)
    assert not called
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "mine"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('{"how": {"la', "Unterminated string"),
        ("[1, 2]", "holds a list"),
        ('{"name": "other"}', "has no 'how'"),
        ('{"how": {}, "tasks": 3}', "'tasks' is 3"),
        ('{"how": {}, "tasks": {}, "levels": [{"no": 1}]}', "unexpected keyword argument 'no'"),
    ],
)
def test_a_damaged_folder_is_told_with_its_file(tissue, by_place, tmp_path, text, found):
    (tmp_path / "benchmark.json").write_text(text)
    with pytest.raises(ValueError, match=rf"benchmark.json is damaged.*{found}.*Name another folder"):
        run(tissue, methods={"m": by_place}, out=tmp_path)
    assert (tmp_path / "benchmark.json").read_text() == text


@pytest.mark.parametrize("out", ["taken", "taken/within"])
def test_a_file_is_no_folder(tissue, by_place, tmp_path, out):
    (tmp_path / "taken").write_text("mine")
    with pytest.raises(NotADirectoryError, match="taken is a file"):
        run(tissue, methods={"m": by_place}, out=tmp_path / out)


def test_a_method_that_leaves_cells_out_is_told_how_many(tissue, quick):
    def mine(adata):
        adata._inplace_subset_obs(np.arange(30))  # as sc.pp.filter_cells
        return adata.obsm["spatial"]

    results = run(tissue, label="region", methods={"m": mine}, tasks="within", seeds=1, scoring=quick)
    assert set(results.runs["reason"]) == {"The embedding has the shape (30, 2); the data have 40 cells."}


def test_a_table_in_another_order_is_put_in_that_of_the_cells(tissue, quick, by_place):
    def mine(adata):
        table = pd.DataFrame(by_place(adata), index=adata.obs_names)
        adata.obs_names = [f"gone{i}" for i in range(adata.n_obs)]
        return table.iloc[::-1]

    methods = {"mine": mine, "same": by_place}
    results = run({"a": tissue}, label="region", methods=methods, tasks="within", seeds=1, scoring=quick)
    np.testing.assert_array_equal(results.embedding("mine", "a: s1"), results.embedding("same", "a: s1"))


def test_precomputed_may_be_sparse(tissue, quick, tmp_path):
    tissue.obsm["X_other"] = sparse.csr_matrix(tissue.obsm["spatial"])
    tissue.write_h5ad(tmp_path / "a.h5ad")
    options = {"precomputed": {"obsm_key": "X_other"}}
    for data in ({"a": tissue}, tmp_path / "a.h5ad"):
        results = run(
            data, label="region", methods="precomputed", options=options, tasks="within", seeds=1, scoring=quick
        )
        found = results.embedding("precomputed", "a: s1")
        np.testing.assert_allclose(found, tissue.obsm["spatial"][tissue.obs["section"] == "s1"], rtol=1e-6)
    assert sparse.issparse(tissue.obsm["X_other"])


def test_an_ablation_gives_table_2_with_the_default_in_every_axis(tissue, quick):
    axes = {"tokens.n_tokens": [4, 8], "encoder.metatoken": [True, False]}
    results = run(
        {"a": tissue[tissue.obs["section"] == "s1"].copy()},
        label="region",
        methods={"stjepa": TINY},
        preset="demo",
        seeds=1,
        axes=axes,
        scoring=quick,
    )
    assert results.failures().empty
    assert len(results.runs) == 3
    table = results.table_2()
    assert list(zip(table["axis"], table["value"], table["default"], strict=True)) == [
        ("tokens.n_tokens", "4", False),
        ("tokens.n_tokens", "8", True),
        ("encoder.metatoken", "True", True),
        ("encoder.metatoken", "False", False),
    ]
    filled = table.set_index("value").loc[["4", "8"], "share_full"]
    assert filled["4"] > filled["8"]
    assert set(results.figures()) >= {"ablation_tokens.n_tokens_a_within", "metatoken_a_within"}


def test_a_level_that_is_named_without_the_default_is_told_against_it(tissue, quick, tmp_path):
    options = {"label": "region", "methods": {"stjepa": TINY}, "seeds": 1, "scoring": quick, "out": tmp_path}
    one = {"a": tissue[tissue.obs["section"] == "s1"].copy()}
    results = run(one, preset="demo", axes={"encoder.value": ["none"]}, **options)
    table = results.table_2().set_index("value")
    assert table["default"].to_dict() == {"bound": True, "none": False}
    assert table.loc["none", "nmi_change"] == pytest.approx(table.loc["none", "nmi"] - table.loc["bound", "nmi"])
    before = (tmp_path / "benchmark.json").read_bytes()
    with pytest.raises(ValueError, match=r"holds an ablation of 'demo.*this is one of 'base.*Name another folder"):
        run(one, preset="base", axes={"encoder.value": ["none"]}, **options)
    assert (tmp_path / "benchmark.json").read_bytes() == before
    # Levels that come later stand with their axis.
    for axes in ({"masking.ratio": [0.3]}, {"encoder.value": ["mlp"]}):
        results = run(one, preset="demo", axes=axes, **options)
    assert results.table_2()["value"].tolist() == ["bound", "none", "mlp", "0.6", "0.3"]


def test_table_2_has_the_untrained_encoder_of_each_level_beside_it(tissue, quick, tmp_path):
    options = {"label": "region", "preset": "demo", "seeds": 1, "scoring": quick, "out": tmp_path}
    one = {"a": tissue[tissue.obs["section"] == "s1"].copy()}
    axes = {"tokens.n_tokens": [4, 8], "masking.ratio": [0.3]}
    results = run(one, methods={"stjepa": TINY, "untrained": None}, axes=axes, **options)
    scored = results.runs[results.runs["method"] == "untrained"].set_index("configuration")
    table = results.table_2().drop_duplicates("value").set_index("value")
    first = results.rows[(results.rows["method"] == "untrained") & (results.rows["metric"] == "nmi")]
    own = {name.partition("n_tokens=")[2].split(",")[0]: nmi for name, nmi in first[["configuration", "value"]].values}
    assert len(scored) == 3  # the preset's own, which takes part by itself, and those of the two lengths
    assert table.loc["8", "nmi_untrained"] == pytest.approx(own["8"])
    assert table.loc["4", "nmi_untrained"] == pytest.approx(own["4"])
    assert table.loc["0.3", "nmi_untrained"] == table.loc["8", "nmi_untrained"]
    # Levels keep it when the folder is gone on with without the control, and its maps are not drawn as a method's.
    again = run(one, methods={"stjepa": TINY}, axes=axes, **options)
    assert again.table_2()["nmi_untrained"].notna().all()
    line = next(ax for ax in again.figures()["ablation_tokens.n_tokens_a_within"].axes if ax.get_title() == "NMI")
    assert line.collections


def test_methods_come_in_the_order_they_were_named_in_however_often_it_was_stopped(tissue, quick, by_place, tmp_path):
    options = {"label": "region", "tasks": "within", "scoring": quick, "seeds": 1, "out": tmp_path}
    run({"a": tissue}, methods={"b": by_place}, **options)
    methods = {"c": lambda adata: adata.obsm["spatial"], "a": by_place, "b": by_place}
    assert list(dict.fromkeys(run({"a": tissue}, methods=methods, **options).runs["method"])) == ["c", "a", "b"]


def test_wrong_seeds_are_told(tissue, by_place):
    with pytest.raises(ValueError, match="a seed or more"):
        run(tissue, methods={"m": by_place}, seeds=0)
    for seeds in (2.0, "3", [0, 0.5], None):
        with pytest.raises(TypeError, match="number of seeds, or a list of them"):
            run(tissue, methods={"m": by_place}, seeds=seeds)


def test_seeds_may_be_of_numpy(tissue, quick):
    def mine(adata, seed):
        return adata.obsm["spatial"] + seed

    for seeds, expected in ((np.int64(2), {0, 1}), (np.array([3, 5]), {3, 5})):
        results = run(tissue, label="region", methods={"m": mine}, tasks="within", seeds=seeds, scoring=quick)
        assert set(results.runs["seed"]) == expected
