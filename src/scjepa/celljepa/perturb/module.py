"""The network of perturbed cells, and control cells paired with perturbed ones as packed batches."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scjepa.celljepa.config import CellJEPAConfig, PerturbationConfig
from scjepa.celljepa.module import (
    CellEmbedding,
    CellEncoder,
    ObjectiveOfCells,
    ValueHead,
    as_target,
    contrast,
    cosine_distance,
)
from scjepa.celljepa.source import CellBatch, CellSource, mixed
from scjepa.nn.encoder import ValueProduct
from scjepa.nn.jepa import JEPAModule, ObjectiveOutput
from scjepa.nn.losses import PooledHead, gathered, mean_over_processes
from scjepa.tokens.source import chosen, move_batch, runs_of
from scjepa.tokens.table import TokenTable

_LEAST_CHANGE = 1e-8
"""Sum of squared changes below which a condition counts as without change."""


@dataclass(frozen=True)
class PerturbedBatch(CellBatch):
    """Control cells whose perturbed genes are marked, and, for training, the perturbed cells they are to become.

    ``genes`` and ``values`` are those of control cells, genes of count 0 (bin 0) among them; ids from the size of the
    vocabulary on are perturbed genes outside it. ``labels`` are conditions.

    Attributes
    ----------
    perturbed
        ``(T,)`` bool: the token's gene is perturbed.
    expression
        ``(T,)`` float32 log-normalized expression of the gene in the perturbed cell; ``None`` when predicting.
    change
        ``(T,)`` float32 mean change of the gene from control in the cell's condition; ``None`` when predicting.
    truth_genes, truth_values, truth_sequences
        Tokens of the perturbed cells; ``None`` when predicting.
    """

    perturbed: Tensor
    expression: Tensor | None = None
    change: Tensor | None = None
    truth_genes: Tensor | None = None
    truth_values: Tensor | None = None
    truth_sequences: Tensor | None = None

    @property
    def truth(self) -> CellBatch:
        """The perturbed cells."""
        if self.truth_genes is None or self.truth_values is None or self.truth_sequences is None:
            raise ValueError("This batch is one to predict: it has no perturbed cells.")
        return CellBatch(self.truth_genes, self.truth_values, self.truth_sequences, self.labels)

    def select(self, keep: Tensor) -> PerturbedBatch:
        """Return the batch of the tokens ``keep``; perturbed cells stay whole."""
        return chosen(self, keep, ("genes", "values", "sequences", "perturbed", "expression", "change"))


class PerturbedEmbedding(CellEmbedding):
    """The embedding of a pretrained encoder, a vector that marks perturbed genes, and genes outside the vocabulary.

    Where value and gene are multiplied (``value="bound"``) twice the gene's vector is added: the panel's genes are
    tokens whether the cell expresses them or not, and times 0 they would all be one. So are genes outside, times -1.

    Parameters
    ----------
    pretrained
        Embedding to begin with; it is copied.
    n_outside
        Perturbed genes outside the vocabulary. Their tokens carry no value, for none was measured, and their vectors
        are learned from conditions alone.
    config
        The model's configuration.
    """

    def __init__(self, pretrained: CellEmbedding, n_outside: int, config: CellJEPAConfig):
        n_genes = pretrained.gene.num_embeddings
        super().__init__(n_genes + n_outside, config)
        self.n_genes = n_genes
        with torch.no_grad():
            self.gene.weight[: self.n_genes] = pretrained.gene.weight
            self.cls.copy_(pretrained.cls)
        self.value.load_state_dict(pretrained.value.state_dict())
        # As large as the vector of a gene: the tokens it marks are few among hundreds and are to be found.
        self.perturbation = nn.Parameter(torch.randn(config.encoder.width) * config.encoder.gene_std)

    def forward(self, batch: CellBatch, hidden: Tensor | None = None) -> Tensor:
        """Embed the genes of a batch, ``(T, width)``; ``hidden`` are further ones of unseen value."""
        outside = batch.genes >= self.n_genes
        content = super().forward(batch, outside if hidden is None else outside | hidden)
        if isinstance(self.value, ValueProduct):
            content = content + 2 * self.gene(batch.genes)
        if isinstance(batch, PerturbedBatch):
            content = content + batch.perturbed[:, None] * self.perturbation
        return content


class PerturbationObjective(ObjectiveOfCells):
    """Heads and loss of training on perturbations.

    loss = w_reconstruction · MSE(expression) + w_jepa · (1 - cos(predictor(<cls>), teacher's <cls> of the perturbed
    cell)) + w_contrast · ECS(<cls>, conditions) + w_delta · the error of the change.

    The last, of ``delta_aware``, is the mean over the perturbed cells of the batch of
    sum_g (d'_g - d_g)² / sum_g d_g²: d' is the predicted expression minus control's mean, d the mean change of the
    cell's condition, over the genes of the cell's tokens. It is 1 where no change is predicted and 0 where it is right,
    whether the condition changes much or little.

    Parameters
    ----------
    config
        The model's configuration.
    delta_aware
        Whether the change has a loss of its own.
    control
        ``(n_genes,)`` mean expression of control.
    """

    control: Tensor
    passes = 1.2  # with the heads of every gene: measured

    def __init__(self, config: CellJEPAConfig, delta_aware: bool, control: Tensor):
        super().__init__()
        self.config: PerturbationConfig = config.perturbation
        self.delta_aware = delta_aware
        self.register_buffer("control", control.float())
        value = ValueHead(config.encoder.width, 1)
        for parameter in value.mlp[-1].parameters():
            nn.init.zeros_(parameter)
        self.heads = nn.ModuleDict({"value": value})
        if self.config.objective.jepa_weight > 0:
            self.heads["predictor"] = PooledHead(config.encoder.width)

    def expression(self, genes: Tensor, tokens: Tensor) -> Tensor:
        """Return predicted expression, ``(T,)``, of genes of the vocabulary with these token vectors."""
        values = self.heads["value"](tokens)
        return values + self.control[genes] if self.config.from_control else values

    def forward(
        self, context: CellEncoder, target: CellEncoder, batch: PerturbedBatch, generator: torch.Generator | None = None
    ) -> ObjectiveOutput:
        """Return the loss of a batch; nothing is drawn."""
        config = self.config.objective
        if batch.expression is None or batch.change is None:
            raise ValueError("This batch is one to predict: it has no perturbed cells.")
        cells, tokens = context(batch, genes=True)
        cells = cells.float()
        known = batch.genes < len(self.control)
        genes, wanted = batch.genes[known], batch.expression[known]
        found = self.expression(genes, tokens[known])
        terms = {"reconstruction": mean_over_processes(F.mse_loss(found, wanted), len(found))}
        teacher = None
        if config.jepa_weight > 0 or not self.training:
            with torch.no_grad():
                teacher = target(batch.truth)[0].float()
        if config.jepa_weight > 0 and teacher is not None:
            taught = as_target(gathered(teacher), config)
            terms["jepa"] = cosine_distance(gathered(self.heads["predictor"](cells).float()), taught)
        if config.contrast_weight > 0:
            terms["contrast"] = contrast(gathered(cells), gathered(batch.labels), config)
        output = ObjectiveOutput(loss=cells.sum() * 0.0)
        for name, term in terms.items():
            output.loss = output.loss + getattr(config, f"{name}_weight") * term
        if self.delta_aware:
            change = found - self.control[genes]
            error, n = relative_error(change, batch.change[known], batch.sequences[known], batch.n_sequences)
            terms["delta"] = mean_over_processes(error, n)
            output.loss = output.loss + self.config.delta_weight * terms["delta"]
        output.terms = {f"{name}_loss": term.detach() for name, term in terms.items()}
        output.predictions, output.targets, output.genes = found.detach()[:, None], wanted[:, None], genes
        output.student, output.teacher = cells.detach(), teacher
        return output


def relative_error(found: Tensor, wanted: Tensor, rows: Tensor, n_rows: int) -> tuple[Tensor, int]:
    """Return the mean over rows of sum (found - wanted)² / sum wanted², and of how many; not where none is wanted."""
    zeros = found.new_zeros(n_rows)
    error = zeros.index_add(0, rows, (found - wanted).square())
    size = zeros.index_add(0, rows, wanted.square())
    changes = size > _LEAST_CHANGE
    if not changes.any():
        return found.sum() * 0.0, 0
    shares = error[changes] / size[changes]
    return shares.mean(), len(shares)


class PerturbationJEPAModule(JEPAModule["PerturbedSource", PerturbedBatch]):
    """What predicts perturbed cells: an encoder, a frozen teacher, and the heads. Both begin as a pretrained encoder.

    Parameters
    ----------
    pretrained
        The encoder to begin with; it is copied and stays as it is.
    n_outside
        Perturbed genes outside the vocabulary.
    config
        The model's configuration.
    control
        ``(n_genes,)`` mean expression of control.
    delta_aware
        Whether the change has a loss of its own.
    """

    config: CellJEPAConfig
    context: CellEncoder
    target: CellEncoder
    objective: PerturbationObjective

    def __init__(
        self, pretrained: CellEncoder, n_outside: int, config: CellJEPAConfig, control: Tensor, delta_aware: bool
    ):
        context = copy.deepcopy(pretrained).requires_grad_(True)
        context.embedding = PerturbedEmbedding(pretrained.embedding, n_outside, config)
        super().__init__(config, context, PerturbationObjective(config, delta_aware, control), target=pretrained)

    def update_target(self, momentum: float) -> None:
        """Do nothing: the teacher is frozen."""

    def gather(
        self, source: PerturbedSource, cells: Tensor, generator: torch.Generator | None = None
    ) -> PerturbedBatch:
        """Return control cells that are to become ``cells``."""
        return source.pairs(cells, generator)

    def predict(self, batch: PerturbedBatch) -> Tensor:
        """Return predicted expression of each token's gene, ``(T,)`` float32; 0 for genes outside the vocabulary."""
        known = batch.genes < len(self.objective.control)
        tokens = self.context(batch, genes=True)[1]
        found = torch.zeros(batch.n_tokens, device=tokens.device)
        found[known] = self.objective.expression(batch.genes[known], tokens[known])
        return found

    def embed(self, batch: CellBatch, encoder: str = "target", scale: str = "cls") -> Tensor:
        """Return the ``<cls>`` of cells as they are, ``(B, width)`` float32: what the monitor reads."""
        return self.encoder(encoder)(batch)[0].float()


class PerturbedSource(CellSource):
    """Cells of a perturbation screen, ready to be gathered into batches.

    A batch has genes that a cell does not express too, with bin 0: what a perturbation does to them is asked as well.

    Parameters
    ----------
    table
        All expressed genes of every cell.
    expression
        ``(n_tokens,)`` float32 log-normalized expression of the table's tokens.
    conditions
        ``(n_cells,)`` codes.
    perturbed
        ``(n_conditions, K)`` ids of the genes that each condition perturbs, padded with -1; ids from the size of the
        vocabulary on are genes outside it.
    panel
        Vocabulary ids of the genes that were measured.
    controls
        Control cells to pair perturbed cells with.
    changes
        ``(n_conditions, n_vocabulary)`` mean change of expression from control.
    n_tokens
        Genes of a cell in a batch, at most. Perturbed genes are always among them, the others are drawn.
    device
        Where the batches are wanted.
    """

    _TABLES = (*CellSource._TABLES, "_expression", "_perturbed", "_panel", "_controls", "_changes")

    def __init__(
        self,
        table: TokenTable,
        expression: np.ndarray,
        conditions: np.ndarray,
        perturbed: np.ndarray,
        panel: np.ndarray,
        controls: np.ndarray,
        changes: np.ndarray,
        n_tokens: int,
        device: torch.device | str = "cpu",
    ):
        if not len(controls):
            raise ValueError("There are no control cells to begin with.")
        self.n_vocabulary = table.n_vocabulary
        fixed = np.argsort(mixed(table.n_vocabulary)[panel], kind="stable")  # an order that no data decides
        self._expression = torch.from_numpy(np.asarray(expression, dtype=np.float32))
        self._perturbed = torch.from_numpy(np.asarray(perturbed, dtype=np.int64))
        self._panel = torch.from_numpy(np.asarray(panel, dtype=np.int64)[fixed])
        self._controls = torch.from_numpy(np.asarray(controls, dtype=np.int64))
        self._changes = torch.from_numpy(np.asarray(changes, dtype=np.float32))
        super().__init__(table, n_tokens, labels=conditions, device=device)

    def sequence_lengths(self, cells: Tensor | None = None, training: bool = True) -> Tensor:
        """``(n,)`` int64 tokens of the sequences that are trained on, ``<cls>`` included."""
        n = self.n_cells if cells is None else len(cells)
        length = min(len(self._panel) + self._perturbed.shape[1], self.n_tokens) + 1
        return torch.full((n,), length, dtype=torch.int64, device=self.table_device)

    def pairs(self, cells: Tensor, generator: torch.Generator | None = None) -> PerturbedBatch:
        """Return control cells that are to become ``cells``.

        Parameters
        ----------
        cells
            ``(B,)`` int64.
        generator
            Draws a control cell for each, and genes where there are too many. Default: both by rule.
        """
        cells = cells.to(self.table_device)
        if generator is None:
            begin = self._controls[cells % len(self._controls)]
        else:
            draw = torch.randint(len(self._controls), (len(cells),), device=generator.device, generator=generator)
            begin = self._controls[draw.to(self.table_device)]
        codes = self._labels[cells]
        perturbed = self._perturbed[codes]
        batch = self._marked(begin, perturbed, self._drawn(len(cells), generator), codes)
        inside = batch.genes < self.n_vocabulary
        place = batch.genes.masked_fill(~inside, 0)
        truth = self._dense(cells, self._expression)
        found = move_batch(super().batch(cells, generator), self.table_device)
        expression = truth[batch.sequences, place] * inside
        change = self._changes[codes[batch.sequences], place] * inside
        wanted = {"truth_genes": found.genes, "truth_values": found.values, "truth_sequences": found.sequences}
        return self._moved(replace(batch, expression=expression, change=change, **wanted))

    def gene_groups(self) -> list[Tensor]:
        """Return the measured genes, ids, in groups small enough for a batch: the same whatever is predicted."""
        return list(self._panel.split(max(1, self.n_tokens - self._perturbed.shape[1])))

    def to_predict(self, cells: Tensor, perturbed: Tensor, genes: Tensor) -> PerturbedBatch:
        """Return control ``cells`` with ``perturbed`` genes, ``(K,)`` ids, marked, and ``genes``, ``(G,)`` ids."""
        cells = cells.to(self.table_device)
        n = len(cells)
        rows = perturbed.to(self.table_device).expand(n, -1), genes.to(self.table_device).expand(n, -1)
        return self._moved(self._marked(cells, *rows, torch.full((n,), -1, device=self.table_device)))

    def _drawn(self, n: int, generator: torch.Generator | None) -> Tensor:
        """Return ``(n, G)`` measured genes, so many that perturbed ones have room beside them."""
        most = max(1, self.n_tokens - self._perturbed.shape[1])
        if len(self._panel) <= most:
            return self._panel.expand(n, -1)
        if generator is None:
            return self._panel[:most].expand(n, -1)
        keys = torch.rand(n, len(self._panel), device=generator.device, generator=generator)
        return self._panel[keys.topk(most, dim=1).indices.to(self.table_device)]

    def _marked(self, cells: Tensor, perturbed: Tensor, genes: Tensor, codes: Tensor) -> PerturbedBatch:
        """Return ``cells`` with ``perturbed`` genes (``(B, K)``, -1 for none) first and ``genes`` behind them."""
        twice = (genes[:, :, None] == perturbed[:, None, :]).any(2)
        tokens = torch.cat([perturbed, genes], dim=1)
        present = torch.cat([perturbed >= 0, ~twice], dim=1)
        rows = torch.arange(len(cells), device=cells.device)[:, None].expand_as(tokens)[present]
        flags = torch.zeros_like(present)
        flags[:, : perturbed.shape[1]] = True
        kept = tokens[present]
        inside = kept < self.n_vocabulary
        values = self._dense(cells, None)[rows, kept.masked_fill(~inside, 0)] * inside
        return PerturbedBatch(kept, values, rows, codes, flags[present])

    def _dense(self, cells: Tensor, column: Tensor | None) -> Tensor:
        """Return ``(B, n_vocabulary)`` values of ``cells``: of ``column``, or their bins; 0 where not expressed."""
        rows, within = runs_of(self.cell_lengths(cells))
        tokens = self._offsets[cells][rows] + within
        out = torch.zeros(len(cells), self.n_vocabulary, dtype=torch.float32, device=cells.device)
        out[rows, self._genes[tokens].long()] = self._values_of(tokens) if column is None else column[tokens]
        return out
