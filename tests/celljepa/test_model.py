from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from scipy import sparse

import scjepa


def _weights(model):
    return {name: tensor.clone() for name, tensor in model.module.state_dict().items()}


def test_training_keeps_the_user_s_data_and_has_a_history(adata, make_model, quiet):
    before = adata.copy()
    model = make_model(adata)
    with pytest.warns(UserWarning, match="not trained"):
        untrained = model.get_latent_representation()
    model.train(**quiet)
    for name in ("loss", "reconstruction_loss", "jepa_loss", "validation_loss", "effective_rank", "loss_ratio"):
        assert name in model.history
    assert len(model.history["loss"]) == 12
    assert model.diagnose().verdict != "untrained"
    assert (adata.X != before.X).nnz == 0
    assert list(adata.obs) == list(before.obs)
    assert not np.allclose(model.get_latent_representation(), untrained)
    assert "CellJEPA, trained for 12 steps" in repr(model)


def test_embeddings_do_not_depend_on_gene_order_other_cells_or_batch_size(finetuned):
    model, adata = finetuned
    full = model.get_latent_representation()
    assert full.shape == (150, 32)
    assert full.dtype == np.float32
    shuffled = adata[::-1, np.random.default_rng(0).permutation(adata.n_vars)].copy()
    np.testing.assert_allclose(model.get_latent_representation(shuffled)[::-1], full, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(model.get_latent_representation(batch_size=7), full, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(model.get_latent_representation(adata[3:4].copy())[0], full[3], rtol=1e-3, atol=1e-5)
    student = model.get_latent_representation(encoder="context")
    assert not np.allclose(student, full)
    assert not np.allclose(model.get_latent_representation(scale="genes"), full)


def test_runs_repeat_and_the_seed_matters(make_adata, make_model, quiet):
    def run(seed):
        model = make_model(make_adata(), seed=seed, encoder={"width": 32, "n_layers": 1, "n_heads": 2, "dropout": 0.2})
        model.train(max_steps=4, **quiet)
        return _weights(model)

    one, two, other = run(1), run(1), run(2)
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)


def test_a_resumed_run_is_the_uninterrupted_one(make_adata, make_model, quiet, tmp_path):
    whole = make_model(make_adata())
    whole.train(max_steps=8, **quiet)
    part = make_model(make_adata())
    part.train(max_steps=8, checkpoint_dir=tmp_path, checkpoint_every=5, **quiet)
    resumed = make_model(make_adata())
    resumed.train(max_steps=8, ckpt_path=tmp_path / "last.ckpt", **quiet)
    a, b = _weights(whole), _weights(resumed)
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_learning_rate_falls_by_epoch_with_the_papers_schedule(adata, make_model, quiet):
    model = make_model(adata)
    how = {"schedule": "steps", "warmup": 0.0, "optimizer": "adam", "learning_rate": 1e-3}
    model.train(max_epochs=3, plan_kwargs=how, validation_size=0, **quiet)
    rate = model.history["learning_rate"]["learning_rate"].to_numpy()
    per_epoch = 150 // 16
    expected = np.repeat([1e-3, 0.9e-3, 0.81e-3], per_epoch)
    np.testing.assert_allclose(rate, expected)


def test_training_learns_something_beyond_the_mean_cell(make_adata, make_model, quiet):
    model = make_model(make_adata(300))
    model.train(max_steps=150, **quiet)
    apart = model.history["views_ratio"]["views_ratio"]
    assert apart.iloc[-1] < 0.8 * apart.iloc[0]
    assert model.diagnose().verdict == "healthy"


def test_reconstruction_only_is_the_same_code_without_the_teacher(adata, make_model, quiet):
    model = make_model(adata, objective={"jepa_weight": 0.0})
    model.train(max_steps=3, **quiet)
    assert not {"jepa_loss", "variance_loss", "covariance_loss"} & set(model.history)
    assert "reconstruction_loss" in model.history


def test_validation_by_batch_and_empty_cells_are_not_trained_on(make_adata, make_model, quiet):
    adata = make_adata()
    adata.X[[3, 8]] = 0
    adata.X.eliminate_zeros()
    model = make_model(adata)
    with pytest.warns(UserWarning, match="2 cells have no count .* first 'cell3'.*not trained on"):
        model.train(validation="batch", **quiet)
    assert adata.obs["batch"].iloc[model.validation_indices_].nunique() == 1
    assert not {3, 8} & {*model.train_indices_, *model.validation_indices_}
    with pytest.warns(UserWarning, match="Their embedding is zero"):
        assert (model.get_latent_representation()[[3, 8]] == 0).all()
    with pytest.raises(ValueError, match="'cell' or by 'batch'"):
        model.train(validation="block", **quiet)


# -- fine-tuning and labels -------------------------------------------------------------------------------------------


def test_finetuning_adds_its_terms_and_labels_become_near(finetuned):
    model, adata = finetuned
    for name in ("cell_reconstruction_loss", "contrast_loss"):
        assert name in model.history
    labels = model.predict_labels()
    assert list(labels) == ["label", "confidence"]
    assert labels.index.equals(adata.obs_names)
    assert labels["confidence"].between(0, 1, inclusive="right").all()
    right = labels["label"].astype(str).to_numpy() == adata.obs["cell_type"].astype(str).to_numpy()
    assert right.mean() > 0.8


def test_unlabelled_cells_take_no_part_in_finetuning(make_adata, make_model, quiet):
    def run(change):
        adata = make_adata()
        adata.obs["cell_type"] = adata.obs["cell_type"].astype(object)
        adata.obs.loc[adata.obs_names[100:], "cell_type"] = np.nan
        if change:
            adata.X[100:] = adata.X[:50]
        model = make_model(adata)
        model.finetune(**quiet)
        return model

    one, two = run(False), run(True)
    assert max(one.train_indices_) < 100
    a, b = _weights(one), _weights(two)
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert one.predict_labels()["label"].notna().all()


def test_finetuning_wants_labels(adata, make_model, quiet):
    with pytest.raises(ValueError, match="labels_key"):
        make_model(adata, {}).finetune(**quiet)
    adata.obs["cell_type"] = "T"
    with pytest.raises(ValueError, match="fewer than two labels"):
        make_model(adata).finetune(**quiet)


def test_a_label_is_the_vote_of_the_neighbors(finetuned, make_adata):
    model, adata = finetuned
    query = make_adata(40, seed=5)
    found = model.predict_labels(query, n_neighbors=7)
    unit = lambda x: x / np.linalg.norm(x, axis=1, keepdims=True)  # noqa: E731
    near = np.argsort(-unit(model.get_latent_representation(query)) @ unit(model.get_latent_representation()).T)[:, :7]
    kinds = adata.obs["cell_type"].astype(str).to_numpy()
    for row, (label, confidence) in enumerate(found.itertuples(index=False)):
        votes = pd.Series(kinds[near[row]]).value_counts()
        assert votes[label] == votes.max()
        assert confidence == pytest.approx(votes.max() / 7)


def test_no_cell_votes_on_itself(finetuned):
    model, adata = finetuned
    alone = model.predict_labels(n_neighbors=1)
    as_query = model.predict_labels(adata.copy(), n_neighbors=1)
    kinds = adata.obs["cell_type"].astype(str).to_numpy()
    assert (as_query["label"].astype(str).to_numpy() == kinds).all()  # another object: each finds itself
    embedding = model.get_latent_representation()
    unit = embedding / np.linalg.norm(embedding, axis=1, keepdims=True)
    similarity = unit @ unit.T
    np.fill_diagonal(similarity, -2)
    assert (alone["label"].astype(str).to_numpy() == kinds[similarity.argmax(1)]).mean() > 0.98  # ties aside


def test_labels_without_a_reference_and_cells_without_counts(finetuned, make_adata, make_model, quiet):
    unlabelled = make_model(make_adata(), {})
    unlabelled.train(max_steps=2, **quiet)
    with pytest.raises(ValueError, match="no labelled cells"):
        unlabelled.predict_labels()
    query = make_adata(10, seed=3)
    query.X[4] = 0
    query.X.eliminate_zeros()
    with pytest.warns(UserWarning, match="cell4"):
        found = finetuned[0].predict_labels(query)
    assert pd.isna(found["label"].iloc[4])
    assert found["confidence"].iloc[4] == 0


def test_labelled_cells_without_counts_do_not_vote(make_adata, make_model, quiet):
    adata = make_adata(60)
    counts = adata.X.toarray()
    adata.obs["cell_type"] = adata.obs["cell_type"].astype(object)
    adata.obs.loc[adata.obs_names[:20], "cell_type"] = "debris"
    counts[:20] = 0
    adata.X = sparse.csr_matrix(counts)
    model = make_model(adata)
    with pytest.warns(UserWarning, match="20 cells have no count"):
        found = model.predict_labels(n_neighbors=60)
    assert found["label"].iloc[:20].isna().all()
    assert (found["label"].iloc[20:] != "debris").all()
    shares = adata.obs["cell_type"].iloc[20:].value_counts()
    np.testing.assert_allclose(found["confidence"].iloc[20:].max(), shares.max() / 39)


def test_the_only_labelled_cell_does_not_label_itself(make_adata, make_model):
    adata = make_adata(20)
    adata.obs["cell_type"] = pd.Series(["B", *[None] * 19], index=adata.obs_names, dtype=object)
    with pytest.warns(UserWarning, match="not trained"):
        found = make_model(adata).predict_labels()
    assert found["label"].isna().tolist() == [True] + [False] * 19
    assert found["confidence"].tolist() == [0.0] + [1.0] * 19


def test_linear_labels_and_unknown_cells(finetuned, make_adata, tmp_path):
    model, _ = finetuned
    query = make_adata(60, seed=8)
    found = model.predict_labels(query, method="linear", unknown=0.2)
    assert list(found) == ["label", "confidence", "p_value"]
    assert ((found["p_value"] < 0.2) == (found["label"] == "unknown")).all()
    votes = model.predict_labels(query)
    told = model.predict_labels(query, unknown=0.2)
    known = told["label"] != "unknown"
    assert (told["label"][known].astype(str) == votes["label"][known].astype(str)).all()
    pd.testing.assert_series_equal(told["p_value"], found["p_value"])
    model.save(tmp_path / "model")
    loaded = scjepa.CellJEPA.load(tmp_path / "model", query.copy(), accelerator="cpu")
    pd.testing.assert_frame_equal(loaded.predict_labels(method="linear", unknown=0.2), found)
    with pytest.raises(ValueError, match="method of labelling"):
        model.predict_labels(query, method="kneighbors")
    with pytest.raises(ValueError, match="unknown must lie"):
        model.predict_labels(query, unknown=2)


def test_a_label_that_is_the_word_for_none_is_refused(make_adata, make_model):
    adata = make_adata()
    adata.obs["cell_type"] = np.where(adata.obs["cell_type"] == adata.obs["cell_type"].iloc[0], "unknown", "other")
    with pytest.warns(UserWarning, match="label 'unknown'"):
        model = make_model(adata, {"labels_key": "cell_type"})
    with pytest.warns(UserWarning, match="not trained"), pytest.raises(ValueError, match="'unknown' is a label"):
        model.predict_labels(unknown=0.1)


# -- save and load ----------------------------------------------------------------------------------------------------


def test_a_loaded_model_is_the_same_bit_for_bit(finetuned, tmp_path):
    model, adata = finetuned
    model.save(tmp_path / "model", save_anndata=True)
    loaded = scjepa.CellJEPA.load(tmp_path / "model", adata[:, ::-1].copy(), accelerator="cpu")
    assert np.array_equal(loaded.get_latent_representation(), model.get_latent_representation())
    assert loaded.predict_labels().equals(model.predict_labels())
    assert loaded.config == model.config
    assert loaded.is_finetuned_
    assert "fine-tuned" in repr(loaded)
    assert all(loaded.history[name].equals(model.history[name]) for name in model.history)
    own = scjepa.CellJEPA.load(tmp_path / "model", accelerator="cpu")
    assert np.array_equal(own.get_latent_representation(), model.get_latent_representation())
    with pytest.raises(ValueError, match="'CellJEPA' model"):
        scjepa.STJEPA.load(tmp_path / "model", adata)


def test_a_model_with_labels_is_loaded_on_data_without(finetuned, make_adata, tmp_path):
    model, _ = finetuned
    model.save(tmp_path / "model")
    query = make_adata(30, seed=7)
    expected = model.predict_labels(query)
    query.obs = query.obs[[]]
    loaded = scjepa.CellJEPA.load(tmp_path / "model", query, accelerator="cpu")
    assert loaded.predict_labels().equals(expected)
    assert loaded.keys.labels_key is None


def test_a_loaded_model_trains_on(finetuned, make_adata, tmp_path, quiet):
    finetuned[0].save(tmp_path / "model")
    loaded = scjepa.CellJEPA.load(tmp_path / "model", make_adata(), accelerator="cpu")
    before = loaded.n_steps_
    loaded.train(max_steps=2, **quiet)
    assert loaded.n_steps_ == before + 2
    loaded.finetune(max_epochs=1, **quiet)
    assert loaded.n_steps_ > before + 2


class _Interrupt(Callback):
    def on_train_batch_end(self, *_):
        raise KeyboardInterrupt


def test_an_interrupted_fine_tuning_is_one_and_survives_saving(adata, make_adata, make_model, tmp_path, quiet):
    model = make_model(adata)
    with pytest.raises(KeyboardInterrupt, match="keeps what it has learned"):
        model.finetune(callbacks=[_Interrupt()], **quiet)
    assert model.is_finetuned_
    assert "fine-tuned" in repr(model)
    model.save(tmp_path / "model")
    loaded = scjepa.CellJEPA.load(tmp_path / "model", make_adata(), accelerator="cpu")
    assert loaded.predict_labels().equals(model.predict_labels())


@pytest.mark.parametrize("wrong", [{"nonsense": 1}, {"validation": "nonsense"}, {"validation_size": 0.7}])
def test_a_fine_tuning_that_was_refused_leaves_no_trace(adata, make_adata, make_model, tmp_path, quiet, wrong):
    model = make_model(adata)
    model.train(max_steps=1, **quiet)
    before = _weights(model)
    with pytest.raises((TypeError, ValueError)):
        model.finetune(**wrong)
    assert _weights(model).keys() == before.keys()
    assert not model.is_finetuned_
    model.save(tmp_path / "model")
    scjepa.CellJEPA.load(tmp_path / "model", make_adata(), accelerator="cpu")


def test_a_model_loaded_on_unlabelled_data_keeps_its_labels_until_it_trains(finetuned, make_adata, tmp_path, quiet):
    finetuned[0].save(tmp_path / "model")
    query = make_adata(40, seed=7)
    query.obs = query.obs[[]]
    loaded = scjepa.CellJEPA.load(tmp_path / "model", query, accelerator="cpu")
    with pytest.raises(TypeError, match="nonsense"):
        loaded.train(nonsense=1)
    assert len(loaded.predict_labels()) == 40
    with pytest.warns(UserWarning, match="predict_labels has nothing to compare with"):
        loaded.train(max_steps=1, **quiet)
    with pytest.raises(ValueError, match="no labelled cells"):
        loaded.predict_labels()
    loaded.save(tmp_path / "again")
    again = scjepa.CellJEPA.load(tmp_path / "again", query, accelerator="cpu")
    assert np.array_equal(again.get_latent_representation(), loaded.get_latent_representation())


# -- names of genes ---------------------------------------------------------------------------------------------------


def _ensembl(adata):
    other = adata.copy()
    other.var["symbol"] = other.var_names
    other.var_names = [f"ENSG{i:011d}" for i in range(other.n_vars)]
    return other


def test_ensembl_ids_are_named_and_converted_by_a_table(finetuned):
    model, adata = finetuned
    query, expected = _ensembl(adata), model.get_latent_representation()
    with pytest.raises(ValueError, match=r"adata.var\['symbol'\] has .* names that are.*gene_names="):
        model.get_latent_representation(query)
    with pytest.raises(KeyError, match="symbols"):
        model.get_latent_representation(query, gene_names="symbols")
    with pytest.raises(ValueError, match="from the data's names"):
        model.get_latent_representation(query, gene_names={"A": "B"})
    table = dict(zip(query.var_names, adata.var_names, strict=True))
    for given in ("symbol", table, pd.Series(table)):
        assert np.array_equal(model.get_latent_representation(query, gene_names=given), expected)
    assert len(model.predict_labels(query, gene_names="symbol")) == 150


def test_a_table_of_names_is_advised_only_where_one_can_be_given(finetuned, tmp_path):
    model, adata = finetuned
    model.save(tmp_path / "model")
    with pytest.raises(ValueError, match=r"adata.var\['symbol'\] has .* names that are") as error:
        scjepa.CellJEPA.load(tmp_path / "model", _ensembl(adata), accelerator="cpu")
    assert "gene_names" not in str(error.value)


def test_genes_that_become_one_are_added_up(finetuned):
    model, adata = finetuned
    split = adata.copy()
    halves = sparse.csr_matrix(split.X // 2 if not sparse.issparse(split.X) else (split.X.toarray() // 2))
    import anndata as ad

    names = [f"{g}.a" for g in adata.var_names], [f"{g}.b" for g in adata.var_names]
    parts = sparse.hstack([halves, split.X - halves]).tocsr()
    query = ad.AnnData(parts, obs=adata.obs[[]].copy(), var=pd.DataFrame(index=[*names[0], *names[1]]))
    table = {name: name[:-2] for name in query.var_names}
    found = model.get_latent_representation(query, gene_names=table)
    np.testing.assert_allclose(found, model.get_latent_representation(), rtol=1e-3, atol=1e-5)


def test_a_query_of_some_genes_is_told_and_new_ones_left_out(finetuned, make_adata):
    model, adata = finetuned
    query = make_adata(20, 50, seed=2)
    with pytest.warns(UserWarning, match="45 of 50 genes"):
        more = model.get_latent_representation(query)
    assert np.array_equal(more, model.get_latent_representation(query[:, :45].copy()))
    assert np.isfinite(model.get_latent_representation(adata[:, :20].copy())).all()


@pytest.mark.parametrize("kind", ["duplicates", "negative", "view", "labels", "layer"])
def test_bad_input_is_named(adata, make_model, kind):
    if kind == "duplicates":
        adata.var_names = ["GENE1", *adata.var_names[1:]]
        with pytest.raises(ValueError, match="'GENE1'"):
            make_model(adata)
    elif kind == "negative":
        adata.X = adata.X.astype(np.float32)
        adata.X[2, 5] = -3
        with pytest.raises(ValueError, match="'cell2' has the value -3 in gene 'GENE5'"):
            make_model(adata).estimate()
    elif kind == "view":
        with pytest.raises(ValueError, match="copy"):
            make_model(adata[:50])
    elif kind == "labels":
        with pytest.raises(KeyError, match=r"obs\['kind'\].*cell_type"):
            make_model(adata, {"labels_key": "kind"})
    else:
        with pytest.raises(KeyError, match="layers"):
            make_model(adata, {"layer": "counts"})


def test_what_is_no_anndata_is_refused_with_the_call_that_reads_it(finetuned):
    with pytest.raises(TypeError, match=r"read_h5ad\('cells.h5ad'\)"):
        scjepa.CellJEPA.setup_anndata("cells.h5ad")
    for use in (finetuned[0].get_latent_representation, finetuned[0].predict_labels, finetuned[0].estimate):
        with pytest.raises(TypeError, match=r"read_h5ad\('cells.h5ad'\)"):
            use("cells.h5ad")


def test_a_file_of_embeddings_of_other_genes_is_not_taken_for_these(adata, make_model, quiet, tmp_path):
    found = []
    for n_embedded in (10, 30):
        model = make_model(adata, tokens={"n_tokens": 20, "n_embedded": n_embedded})
        model.train(max_steps=1, **quiet)
        found.append(model.get_latent_representation())
        if n_embedded == 10:
            model.get_latent_representation(out=tmp_path / "latent.npy")
    assert not np.array_equal(*found)
    with pytest.raises(FileExistsError, match="data differ"):
        model.get_latent_representation(out=tmp_path / "latent.npy")


def test_a_checkpoint_of_pretraining_is_none_of_fine_tuning(adata, make_model, quiet, tmp_path):
    model = make_model(adata)
    model.train(max_steps=1, checkpoint_dir=tmp_path, checkpoint_every=1, **quiet)
    with pytest.raises(ValueError, match="is the state of another training"):
        model.finetune(checkpoint_dir=tmp_path, ckpt_path="last", **quiet)


# -- generation, estimates --------------------------------------------------------------------------------------------


def test_generated_values_are_bins_in_the_order_asked_for(make_adata, make_model, quiet):
    adata = make_adata()
    model = make_model(adata, objective={"jepa_weight": 0.0, "cell_prompt_weight": 1.0}, masking={"ratio": (0.3, 0.6)})
    model.train(max_steps=5, **quiet)
    genes = ["GENE7", "GENE3"]
    values = model.predict_expression(genes)
    assert values.shape == (150, 2)
    assert list(values) == genes
    turned = model.predict_expression(genes[::-1], batch_size=11)
    np.testing.assert_allclose(turned[genes], values, rtol=1e-3, atol=1e-3)
    assert values.to_numpy().min() >= 0
    assert values.to_numpy().max() <= 50
    with pytest.raises(ValueError, match="does not know"):
        model.predict_expression(["nothing"])
    for wrong in ({"n_iterations": 0}, {"batch_size": 0}):
        with pytest.raises(ValueError, match="must be positive"):
            model.predict_expression(genes, **wrong)


def test_what_a_run_takes_is_told_before(adata, make_model):
    text = str(make_model(adata).estimate())
    assert "parameters" in text


@pytest.mark.data
def test_pbmc_of_another_library_embed_by_a_model_of_pbmc3k(data_dir, quiet):
    import anndata as ad

    cells = ad.read_h5ad(data_dir / "single_cell" / "pbmc3k.h5ad")[:200].copy()
    query = ad.read_h5ad(data_dir / "single_cell" / "pbmc4k_half.h5ad")[:60].copy()
    scjepa.CellJEPA.setup_anndata(cells, labels_key="cell_type")
    model = scjepa.CellJEPA(cells, "demo", tokens={"n_tokens": 100})
    model.train(max_steps=3, **quiet)
    with pytest.warns(UserWarning, match="are left out"):
        found = model.predict_labels(query)
    assert set(found["label"]) <= set(cells.obs["cell_type"])
    assert (found["confidence"] > 0).all()


def test_the_monitor_reads_as_many_genes_as_training_the_same_each_time(adata, make_model, quiet, monkeypatch):
    model = make_model(adata)
    kind, seen = type(model.module), []
    loss = kind.loss

    def watched(self, batch, generator=None):
        if not self.training:
            seen.append(batch.genes.tolist())
            assert batch.lengths.max() <= 20
        return loss(self, batch, generator)

    monkeypatch.setattr(kind, "loss", watched)
    model.train(max_steps=12, monitor_every=6, **quiet)
    readings = len(seen) // len({tuple(genes) for genes in seen})
    assert readings == 3  # before training, and after 6 and 12 steps
    assert model._source(None).sequence_lengths().max() > 21  # embedding keeps all


@pytest.mark.parametrize("absent", ["unlabelled", "unlabeled", None])
def test_cells_without_a_label_are_none_of_a_type(make_adata, make_model, absent, quiet):
    adata = make_adata(90)
    labels = adata.obs["cell_type"].astype(object)
    labels.iloc[::3] = absent
    adata.obs["cell_type"] = labels
    model = make_model(adata)
    model.finetune(max_steps=2, **quiet)
    assert set(model.predict_labels()["label"]) <= {"T", "B", "NK"}
    assert not np.isin(np.arange(0, 90, 3), [*model.train_indices_, *model.validation_indices_]).any()


@pytest.mark.parametrize("kind", ["category", pd.StringDtype(na_value=np.nan)])
def test_missing_labels_are_none_as_pandas_3_holds_them(make_adata, make_model, kind, quiet):
    adata = make_adata(60)
    labels = adata.obs["cell_type"].astype(pd.StringDtype(na_value=np.nan))
    labels.iloc[::3] = np.nan
    adata.obs["cell_type"], adata.obs["batch"] = labels.astype(kind), adata.obs["batch"].astype(kind)
    model = make_model(adata)
    model.train(max_steps=2, **quiet)
    assert set(model.predict_labels()["label"].dropna()) <= {"T", "B", "NK"}


def test_words_that_may_mean_no_label_are_warned_of(make_adata, make_model):
    adata = make_adata(60)
    adata.obs["cell_type"] = np.where(np.arange(60) % 2, "Unknown", adata.obs["cell_type"].astype(str))
    adata.obs["batch"] = np.where(np.arange(60) % 2, "nan", "b")
    with pytest.warns(UserWarning, match="cells have the") as told:
        make_model(adata)
    words = [str(one.message) for one in told]
    assert any("30 cells have the batch 'nan'" in each for each in words)
    assert any("30 cells have the label 'Unknown'" in each for each in words)


def test_batches_of_one_batch_need_to_be_told_apart(adata, make_model, quiet):
    model = make_model(adata, {"labels_key": "cell_type"})
    with pytest.raises(
        ValueError, match="batches='section' makes batches of cells of one batch, and the data names none"
    ):
        model.train(plan_kwargs={"batches": "section"}, **quiet)


def test_numpys_scalars_are_saved(adata, make_model, quiet, tmp_path):
    model = make_model(adata, seed=np.int64(3), masking={"ratio": np.float32(0.25)})
    model.train(max_steps=np.int64(2), **quiet)
    model.finetune(np.int64(1), **quiet)
    adata.obs["condition"] = np.where(np.arange(adata.n_obs) % 2, "ctrl", "GENE1+ctrl")
    model.train_perturbation(delta_aware=np.bool_(True), target_sum=np.float32(100), max_steps=np.int64(1), **quiet)
    model.save(tmp_path / "model")
    again = scjepa.CellJEPA.load(tmp_path / "model", adata)
    assert (again.seed, again.config.masking.ratio) == (3, 0.25)
    assert again.perturbation_.target_sum == 100


def test_a_state_of_other_labels_or_of_another_stage_is_not_taken_up(make_adata, make_model, quiet, tmp_path):
    state = {"checkpoint_dir": tmp_path, "ckpt_path": "last", **quiet}
    make_model(make_adata()).finetune(max_steps=2, checkpoint_every=1, **state)
    other = make_adata()
    other.obs["cell_type"] = other.obs["cell_type"].to_numpy()[::-1]
    with pytest.raises(ValueError, match="its labels are not those of this data"):
        make_model(other).finetune(max_steps=2, **state)
    with pytest.raises(ValueError, match="its stage is 'finetuning', here it is 'pretraining'"):
        make_model(make_adata()).train(max_steps=2, **state)
