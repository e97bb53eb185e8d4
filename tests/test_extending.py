"""What docs/extending.md promises: encoders, objectives and models of one's own work like those that are there."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse
from torch import Tensor, nn

import scjepa
from scjepa._core.anndata import counts_of
from scjepa._core.options import Config
from scjepa._core.squidpy import spatial_graph
from scjepa.cli import main
from scjepa.models import JEPAModel
from scjepa.models.embed import embed_to
from scjepa.models.reference import freeze_known
from scjepa.models.setup import Keys
from scjepa.nn import Encoder, JEPAModule, Objective, ObjectiveOutput, Ratio, TransformerConfig
from scjepa.nn.attention import mean_by_group
from scjepa.nn.encoder import Embedding
from scjepa.nn.losses import PooledHead, covariance_loss, mean_target_loss, pooled_loss, variance_loss
from scjepa.stjepa import OBJECTIVES, RANK_ENCODERS, NeighborhoodObjective, ObjectiveConfig, draw_mask, pool
from scjepa.stjepa.config import resolve
from scjepa.stjepa.module import PositionEncoder
from scjepa.tokens import TableSource, TokenTable, Vocabulary, build_token_table
from scjepa.tokens.config import TokenRule
from scjepa.tokens.source import chosen, runs_of
from scjepa.training import TrainConfig
from scjepa.training.plan import held_out_groups

SMALL = {"encoder": {"width": 16, "n_layers": 1, "n_heads": 1}, "tokens": {"n_tokens": 8, "n_neighbors": 4}}


def cells(n: int = 80, n_genes: int = 12) -> ad.AnnData:
    """Return cells of two kinds, on either side of a tissue."""
    rng = np.random.default_rng(0)
    place = rng.random((n, 2)) * 10
    rate = np.where(place[:, :1] < 5, np.linspace(0.5, 4, n_genes), np.linspace(4, 0.5, n_genes))
    names = {"obs": pd.DataFrame(index=[f"c{i}" for i in range(n)]), "var": pd.DataFrame(index=list("abcdefghijkl"))}
    adata = ad.AnnData(sparse.csr_matrix(rng.poisson(rate).astype(np.int32)), **names, obsm={"spatial": place})
    spatial_graph(adata, n_neighs=4)
    return adata


# -- an encoder ----------------------------------------------------------------------------------------------------


class Near(PositionEncoder):
    """A vector for each rank, fainter the farther the cell is."""

    needs_places = True

    def __init__(self, n_positions: int, width: int):
        super().__init__()
        self.table = nn.Embedding(n_positions, width)

    def forward(self, positions: Tensor, places: Tensor | None = None) -> Tensor:
        """Return codes ``(tokens, width)``."""
        return self.table(positions) / (1 + places.norm(dim=1, keepdim=True))


@pytest.fixture
def near():
    """Register the encoder for a test."""
    RANK_ENCODERS["near"] = Near
    yield
    del RANK_ENCODERS["near"]


def test_a_rank_encoder_can_read_where_cells_lie(near, tmp_path):
    adata = cells()
    scjepa.STJEPA.setup_anndata(adata)
    model = scjepa.STJEPA(adata, "demo", encoder={**SMALL["encoder"], "rank": "near"}, tokens=SMALL["tokens"])
    assert model.module.context.embedding.needs_places
    model.train(max_steps=2, accelerator="cpu", progress_bar=False)
    embedding = model.get_latent_representation()
    model.save(tmp_path / "model")
    np.testing.assert_array_equal(scjepa.STJEPA.load(tmp_path / "model", adata).get_latent_representation(), embedding)
    stretched = adata.copy()
    stretched.obsm["spatial"] = adata.obsm["spatial"] * [1, 5]
    with pytest.warns(UserWarning, match="stale"):
        assert not np.allclose(model.get_latent_representation(stretched), embedding)


def test_where_counts_are_summed_an_encoder_of_places_is_refused_by_name(near):
    with pytest.raises(ValueError, match=r"EncoderConfig\.rank='near'"):
        resolve("demo", encoder={"rank": "near"}, tokens={"tokenizer": "neighborhood"})


# -- an objective --------------------------------------------------------------------------------------------------


class Agreement(NeighborhoodObjective):
    """Two maskings shall have one embedding that keeps its variance."""

    has_teacher = False
    ratios: ClassVar = {"views": Ratio("views {:.2f} times as far apart as any", "", "views: of one / of any")}

    def __init__(self, config: Any, n_technologies: int = 1):
        super().__init__(config, n_technologies)
        self.config, self.masking = config.objective, config.masking
        self.projector = PooledHead(config.encoder.width)

    def forward(
        self, context: nn.Module, target: nn.Module, batch: Any, generator: torch.Generator | None = None
    ) -> ObjectiveOutput:
        """Return the loss of ``batch``."""
        twice = batch.repeat(2)
        masked = draw_mask(twice, self.masking.scheme, self.masking.ratio, generator)
        seen = twice.select(~masked)
        views = self.projector(pool(context(seen).float(), seen, "neighborhood"))
        first, second = views.view(2, batch.n_sequences, -1)
        apart = (first - second).square().mean()
        loss = self.config.strength * apart + variance_loss(views) + covariance_loss(views)
        ratio = apart.detach() / views.detach().var(0).mean()
        return ObjectiveOutput(loss, {"agreement_loss": apart.detach()}, {"views": ratio})


@dataclass(frozen=True)
class AgreementConfig(ObjectiveConfig):
    """Options of the objective."""

    objective = Agreement
    ignores = ("n_masks",)

    name: str = field(default="agreement", init=False)
    strength: float = 10.0


@pytest.fixture
def agreement():
    """Register the objective for a test."""
    OBJECTIVES["agreement"] = AgreementConfig
    yield
    del OBJECTIVES["agreement"]


def test_an_objective_trains_and_everything_knows_it(agreement, tmp_path):
    adata = cells()
    scjepa.STJEPA.setup_anndata(adata)
    model = scjepa.STJEPA(adata, "demo", objective={"name": "agreement", "strength": 3.0}, **SMALL)
    model.train(max_steps=4, accelerator="cpu", progress_bar=False, monitor_every=2)
    assert "agreement_loss" in model.history
    assert "views 0." in str(model.diagnose()) or "views 1." in str(model.diagnose())
    assert "views: of one / of any" in [ax.get_title() for ax in scjepa.pl.training(model, show=False)]
    model.save(tmp_path / "model")
    loaded = scjepa.STJEPA.load(tmp_path / "model", adata)
    assert loaded.config.objective == AgreementConfig(strength=3.0)
    np.testing.assert_array_equal(loaded.get_latent_representation(), model.get_latent_representation())
    with pytest.warns(UserWarning, match="masking.n_masks does nothing here"):
        resolve("demo", objective="agreement", masking={"n_masks": 2})


# -- a model -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LinearConfig(Config):
    """Options of the model."""

    tokens: TokenRule = field(default_factory=TokenRule)
    encoder: TransformerConfig = field(default_factory=lambda: TransformerConfig(width=8, n_layers=1, n_heads=1))
    training: TrainConfig = field(default_factory=lambda: TrainConfig(max_steps=6, batches="mixed"))


@dataclass(frozen=True)
class GeneBatch:
    """Genes of some cells."""

    genes: Tensor
    values: Tensor
    sequences: Tensor
    n_sequences: int

    @property
    def n_tokens(self) -> int:
        """Tokens in the batch."""
        return len(self.genes)

    def select(self, keep: Tensor) -> GeneBatch:
        """Return the batch of some tokens."""
        return chosen(self, keep, ("genes", "values", "sequences"))


class GeneSource(TableSource[GeneBatch]):
    """Cells of a table."""

    def __init__(self, table: TokenTable, device: torch.device | str):
        super().__init__(table)
        self.to(device)

    def sequence_lengths(self, cells: Tensor | None = None, training: bool = False) -> Tensor:
        """Return the tokens of each cell."""
        return self.cell_lengths(cells)

    def batch(self, cells: Tensor) -> GeneBatch:
        """Gather the tokens of ``cells``."""
        rows, within = runs_of(self.cell_lengths(cells))
        tokens = self._offsets[cells][rows] + within
        return self._moved(GeneBatch(self._genes[tokens].long(), self._values_of(tokens), rows, len(cells)))


class GeneVectors(Embedding):
    """A vector for each gene."""

    def __init__(self, n_genes: int, width: int):
        super().__init__()
        self.gene = nn.Embedding(n_genes, width)


class LinearEncoder(Encoder):
    """A weighted mean of gene vectors, and a linear map."""

    def __init__(self, n_genes: int, width: int):
        nn.Module.__init__(self)
        self.embedding, self.transformer = GeneVectors(n_genes, width), nn.Linear(width, width)

    def forward(self, batch: GeneBatch) -> Tensor:
        """Return a vector for each cell."""
        tokens = self.embedding.gene(batch.genes) * batch.values.log1p()[:, None]
        return self.transformer(mean_by_group(tokens, batch.sequences, batch.n_sequences))


class OfSome(Objective):
    """Predict the teacher's vector of a cell from half of its genes."""

    ratios: ClassVar = {"cell": Ratio("loss at cells {:.2f} times that of the mean", "cells")}

    def __init__(self, width: int):
        super().__init__()
        self.head = PooledHead(width)

    def forward(
        self, context: nn.Module, target: nn.Module, batch: GeneBatch, generator: torch.Generator | None = None
    ) -> ObjectiveOutput:
        """Return the loss of ``batch``."""
        seen = context(batch.select(torch.rand(batch.n_tokens, generator=generator) > 0.5))
        with torch.no_grad():
            wanted = target(batch)
        loss = pooled_loss(self.head(seen), wanted)
        return ObjectiveOutput(loss + variance_loss(seen), ratios={"cell": loss.detach() / mean_target_loss(wanted)})


class LinearModule(JEPAModule[GeneSource, GeneBatch]):
    """Student and teacher."""

    def __init__(self, n_genes: int, config: LinearConfig):
        width = config.encoder.width
        super().__init__(config, LinearEncoder(n_genes, width), OfSome(width))

    def gather(self, source: GeneSource, cells: Tensor, generator: torch.Generator | None = None) -> GeneBatch:
        """Return the batch of ``cells``."""
        return source.batch(cells)

    def embed(self, batch: GeneBatch, encoder: str = "target", scale: str = "cell") -> Tensor:
        """Return a vector for each cell."""
        return self.encoder(encoder)(batch).float()


@dataclass(frozen=True)
class LinearKeys(Keys):
    """Where the model looks: counts, and batches."""

    batch_key: str | None = None


class LinearJEPA(JEPAModel[LinearKeys, TokenTable, GeneSource]):
    """A bag of genes and a linear map."""

    _scale, _embeds = "cell", "cells"

    def __init__(self, adata: ad.AnnData, seed: int = 0):
        super().__init__(adata)
        self._start(LinearConfig(), Vocabulary.from_panels([adata.var_names]), seed)

    def _new_module(self) -> LinearModule:
        return LinearModule(len(self.vocabulary), self.config)

    @classmethod
    def setup_anndata(
        cls, adata: ad.AnnData, layer: str | None = None, batch_key: str | None = None, **kwargs: Any
    ) -> None:
        """Register cells."""
        arguments = cls._get_setup_method_args(**locals())
        cls._register(adata, LinearKeys(layer, batch_key), arguments, kwargs)

    @classmethod
    def keys_of(cls, setup: dict[str, Any]) -> LinearKeys:
        """Return where the model looks."""
        return LinearKeys.of(setup)

    def tables(self, adata: ad.AnnData, keys: LinearKeys, genes: np.ndarray | None = None) -> TokenTable:
        """Return the table of tokens."""
        ids = self.vocabulary.align(adata.var_names, source="adata.var_names").ids
        counts = counts_of(adata, keys.layer)
        return build_token_table(counts, ids, len(self.vocabulary), self.config.tokens, token_ids=genes)

    def source(self, data: TokenTable, device: torch.device | str = "cpu") -> GeneSource:
        """Return the source of batches."""
        return GeneSource(data, device)

    def split(self, data: TokenTable, size: float, by: str | None) -> tuple[np.ndarray, np.ndarray]:
        """Hold out cells at random."""
        outside = held_out_groups(np.arange(data.n_cells), size, self.seed)
        return np.flatnonzero(~outside), np.flatnonzero(outside)

    @classmethod
    def from_facts(cls, adata: ad.AnnData, facts: dict[str, Any], weights: dict[str, Tensor]) -> Self:
        """Return the model that was saved."""
        model = cls._bare(adata)
        model._start(LinearConfig.from_dict(facts["config"]), Vocabulary(facts["vocabulary"]), facts["seed"])
        model._restore(facts)
        freeze_known(model.module, model.reference, {"n_genes": model.module.context.embedding.gene})
        return model

    def get_latent_representation(self, adata: ad.AnnData | None = None, batch_size: int | str = "auto") -> np.ndarray:
        """Embed cells."""
        source = self._source(adata)
        return embed_to(None, self.module, source, scale="cell", encoder="target", batch_size=batch_size)


@pytest.fixture
def linear():
    """Return a model of the smallest kind, trained."""
    adata = cells()
    adata.obs["plate"] = np.where(np.arange(adata.n_obs) % 2, "p1", "p2")
    LinearJEPA.setup_anndata(adata, batch_key="plate")
    model = LinearJEPA(adata)
    model.train(accelerator="cpu", progress_bar=False, monitor_every=3)
    return model


def test_a_third_model_trains_embeds_saves_and_loads(linear, tmp_path, capsys):
    embedding = linear.get_latent_representation()
    assert embedding.shape == (80, 8)
    assert "up to 64 genes of a cell" in linear.summary()
    assert "loss at cells" in str(linear.diagnose())
    linear.save(tmp_path / "model", save_anndata=True)
    loaded = LinearJEPA.load(tmp_path / "model")
    np.testing.assert_array_equal(loaded.get_latent_representation(), embedding)
    assert loaded.summary() == linear.summary()
    assert loaded.keys == LinearKeys(batch_key="plate")
    assert main(["info", str(tmp_path / "model")]) != 0
    assert "is a LinearJEPA model; the command line serves STJEPA and CellJEPA" in capsys.readouterr().err
    linear.save_pretrained(tmp_path / "checkpoint")
    readme = (tmp_path / "checkpoint" / "README.md").read_text()
    assert "X_linearjepa" in readme
    assert "single-cell" in readme


def test_a_third_model_takes_query_data_and_notices_changed_counts(linear, fresh):
    query = fresh(linear.adata)[:30, 3:].copy()
    del query.obs["plate"]
    query.var_names = [*query.var_names[:-1], "new"]
    model = LinearJEPA.load_query_data(query, linear, freeze="encoder")
    assert len(model.vocabulary) == 13
    model.train(max_steps=2, accelerator="cpu", progress_bar=False)
    assert model.coverage().n_matched == 9
    before = linear.get_latent_representation()
    linear.adata.X = linear.adata.X * 3
    assert not np.allclose(linear.get_latent_representation(), before)
    assert linear.estimate().n_cells == 80
