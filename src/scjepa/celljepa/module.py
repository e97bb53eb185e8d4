"""The network of Cell-JEPA: the encoder of cells, what is predicted of them, and the module of both."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scjepa._core.options import Registry, unknown_name
from scjepa.celljepa.config import CellJEPAConfig, CellMaskingConfig, CellObjectiveConfig
from scjepa.celljepa.source import CellBatch, CellSource
from scjepa.nn.attention import MaskedPacking, Packing, count_by_group, mean_by_group, rank_in_group
from scjepa.nn.encoder import VALUE_ENCODERS, Embedding, Encoder
from scjepa.nn.jepa import (
    ADVICE,
    SHORTER,
    SLOWER_OR_EMA,
    TOKENS,
    VIEWS,
    Advice,
    JEPAModule,
    Objective,
    ObjectiveOutput,
    Ratio,
)
from scjepa.nn.losses import (
    PooledHead,
    covariance_loss,
    gathered,
    mean_over_processes,
    n_processes,
    standardize_over_batch,
    variance_loss,
)

HIDDEN = -1.0
"""Value of a gene whose value is hidden; bins are divided by the highest, so that they lie in [0, 1]."""


class CellEmbedding(Embedding):
    """Gene identity and value of a token -> its vector.

    Parameters
    ----------
    n_genes
        Size of the vocabulary.
    config
        The model's configuration.
    """

    def __init__(self, n_genes: int, config: CellJEPAConfig):
        super().__init__()
        encoder = config.encoder
        self.gene = nn.Embedding(n_genes, encoder.width)
        nn.init.normal_(self.gene.weight, std=encoder.gene_std)
        self.value = VALUE_ENCODERS[encoder.value](encoder.width)
        # Zero, so that at first <cls> is what it attends to (or begins as), and cells differ from the start.
        self.cls = nn.Parameter(torch.zeros(encoder.width))
        self.cls_from = encoder.cls
        self.highest = config.tokens.n_bins - 1

    def forward(self, batch: CellBatch, hidden: Tensor | None = None) -> Tensor:
        """Embed the genes of a batch, ``(T, width)``; ``hidden``, ``(T,)`` bool, are those of unseen value."""
        values = batch.values / self.highest
        if hidden is not None:
            values = values.masked_fill(hidden, HIDDEN)
        return self.value(self.gene(batch.genes), values)

    def begin(self, content: Tensor, sequences: Tensor, n: int) -> Tensor:
        """Return what ``<cls>`` begins as, ``(n, width)``, in sequences of these visible tokens."""
        if self.cls_from == "learned":
            return self.cls.expand(n, -1)
        return self.cls + F.layer_norm(mean_by_group(content.float(), sequences, n), self.cls.shape, eps=1e-8)


class CellEncoder(Encoder):
    """Embedding and transformer: a batch of cells in, ``<cls>`` and gene vectors out.

    A hidden gene is seen by nobody; it sees ``<cls>``, the visible genes and itself (Section 2.2.3). No token has a
    position: what a cell is does not depend on the order of its genes.

    Parameters
    ----------
    n_genes
        Size of the vocabulary.
    config
        The model's configuration.
    """

    embedding: CellEmbedding

    def __init__(self, n_genes: int, config: CellJEPAConfig):
        super().__init__(CellEmbedding(n_genes, config), config.encoder)

    def forward(
        self, batch: CellBatch, hidden: Tensor | None = None, cell: Tensor | None = None, genes: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Encode a batch.

        Parameters
        ----------
        batch
            The cells.
        hidden
            ``(T,)`` bool: genes whose values are hidden; ``None``: none.
        cell
            ``(B, width)`` vectors that stand in the place of ``<cls>`` (a prompt).
        genes
            Whether the vectors of the visible genes are wanted too. The last block computes what is wanted alone.

        Returns
        -------
        tuple
            ``<cls>``, ``(B, width)``, and the vectors of the hidden genes, before them those of the visible ones if
            they are wanted, ``(N, width)``; both kinds in the order of the batch.
        """
        n, device = batch.n_sequences, batch.sequences.device
        content = self.embedding(batch, hidden)
        sequences, lengths, masked = batch.sequences, batch.lengths, content[:0]
        n_masked = torch.zeros_like(lengths)
        if hidden is not None:
            masked, content, sequences = content[hidden], content[~hidden], sequences[~hidden]
            n_masked = count_by_group(batch.sequences, n, hidden)
            lengths = lengths - n_masked
        first = lengths.cumsum(0) - lengths + torch.arange(n, device=device)
        source = torch.empty(n + len(content), dtype=torch.long, device=device)
        source[first] = torch.arange(n, device=device)
        behind = torch.arange(len(content), device=device)
        source[behind + sequences + 1] = n + behind
        prompt = self.embedding.begin(content, sequences, n) if cell is None else cell
        tokens = torch.cat([torch.cat([prompt.to(content.dtype), content]).index_select(0, source), masked])

        layout = MaskedPacking(Packing(lengths + 1), Packing(n_masked))
        if genes:
            out = self.transformer(tokens, layout)
            is_cls = torch.zeros(len(tokens), dtype=torch.bool, device=device).index_fill_(0, first, True)
            return out[first], out[~is_cls]
        rows = torch.cat([first, torch.arange(n + len(content), len(tokens), device=device)])
        out = self.transformer(tokens, layout, rows, MaskedPacking(Packing(torch.ones_like(lengths)), layout.masked))
        return out[:n], out[n:]


class ValueHead(nn.Module):
    """A hidden gene's value from its token: an MLP of three layers.

    Parameters
    ----------
    width
        Token width.
    highest
        The highest bin. The MLP is asked for shares of it, the head gives bins.
    """

    def __init__(self, width: int, highest: int):
        super().__init__()
        self.highest = highest
        first, second, last = nn.Linear(width, width), nn.Linear(width, width), nn.Linear(width, 1)
        nn.init.constant_(last.bias, 0.5)  # begin at the middle bin, not at zero
        self.mlp = nn.Sequential(first, nn.GELU(), second, nn.GELU(), last)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return bins, ``(tokens,)`` float32."""
        return self.highest * self.mlp(tokens)[:, 0].float()


class CellValueHead(nn.Module):
    """A gene's value from its cell's vector: (W σ(Linear(gene))) · cell (scGPT's MVC, the paper's GEPC).

    Parameters
    ----------
    width
        Width of gene and cell vectors.
    highest
        The highest bin.
    """

    def __init__(self, width: int, highest: int):
        super().__init__()
        self.highest = highest
        self.query = nn.Linear(width, width)
        self.weight = nn.Linear(width, width, bias=False)

    def forward(self, genes: Tensor, cells: Tensor) -> Tensor:
        """Return bins, ``(tokens,)`` float32, of gene and cell vectors ``(tokens, width)``."""
        # Divided by the root of the width, so that the first predictions do not grow with it.
        product = (self.weight(torch.sigmoid(self.query(genes))) * cells).sum(1) / cells.shape[1] ** 0.5
        return self.highest * product.float()


def as_target(vectors: Tensor, config: CellObjectiveConfig) -> Tensor:
    """Return the teacher's vectors as ``config.target_norm`` has them compared, float32; cells come first."""
    vectors = vectors.float()
    return standardize_over_batch(vectors) if config.target_norm == "batch" else vectors


def cosine_distance(prediction: Tensor, target: Tensor) -> Tensor:
    """Return the mean over cells of 1 - cosine, for vectors ``(B, width)``."""
    return (1 - F.cosine_similarity(prediction, target, dim=1)).mean()


JEPA_DISTANCES: Registry[Callable[[Tensor, Tensor], Tensor]] = Registry(
    "distance", {"cosine": cosine_distance, "squared": F.mse_loss}
)
"""Distances of predictions from the teacher's vectors, both ``(B, width)``, by name."""


def _cosines(x: Tensor, self_pairs: bool) -> tuple[Tensor, Tensor]:
    """Return all cosines ``(n, n)`` and which of them count."""
    unit = F.normalize(x.float(), dim=1)
    counts = torch.ones(len(x), len(x), dtype=torch.bool, device=x.device)
    return unit @ unit.T, counts if self_pairs else counts.fill_diagonal_(False)


def supervised(x: Tensor, labels: Tensor, config: CellObjectiveConfig) -> Tensor:
    """Supervised contrast: pull cells of one label together, push all others away (the paper's).

    The mean, over cells with a positive, of the mean over positives p of -log(exp(cos_p / temperature) / sum over all
    others a of exp(cos_a / temperature)). Cells without a label take no part.
    """
    x, labels = x[labels >= 0], labels[labels >= 0]
    cosines, counts = _cosines(x, config.self_pairs)
    positive = (labels[:, None] == labels[None, :]) & counts
    anchors = positive.any(1)
    if not anchors.any():
        return x.sum() * 0.0
    log_share = F.log_softmax((cosines / config.temperature).masked_fill(~counts, float("-inf")), dim=1)
    total = log_share.masked_fill(~positive, 0.0).sum(1)[anchors]
    return -(total / positive.sum(1)[anchors]).mean()


def original(x: Tensor, labels: Tensor, config: CellObjectiveConfig) -> Tensor:
    """Mean over pairs of (cosine - similarity)²: no pair is to be far from that similarity (as scGPT prints it)."""
    cosines, counts = _cosines(x, config.self_pairs)
    return (cosines[counts] - config.similarity).square().mean() if counts.any() else x.sum() * 0.0


def scgpt(x: Tensor, labels: Tensor, config: CellObjectiveConfig) -> Tensor:
    """Mean over pairs of 1 - (relu(cosine) - similarity)²: pairs are driven away from it (as scGPT's code has it)."""
    cosines, counts = _cosines(x, config.self_pairs)
    return (1 - (F.relu(cosines[counts]) - config.similarity).square()).mean() if counts.any() else x.sum() * 0.0


CONTRASTS: Registry[Callable[[Tensor, Tensor, CellObjectiveConfig], Tensor]] = Registry(
    "contrast", {"supervised": supervised, "original": original, "scgpt": scgpt}
)
"""Forms of the ECS term by name."""


def contrast(x: Tensor, labels: Tensor, config: CellObjectiveConfig) -> Tensor:
    """Return the ECS term in the form that ``config.contrast`` names."""
    return CONTRASTS[config.contrast](x, labels, config)


def guards(cells: Tensor, config: CellObjectiveConfig) -> dict[str, Tensor]:
    """Return the guards against collapse that have a weight, by name."""
    terms = {}
    if config.variance_weight > 0:
        terms["variance"] = variance_loss(cells)
    if config.covariance_weight > 0:
        terms["covariance"] = covariance_loss(cells)
    return terms


def add_weighted(output: ObjectiveOutput, terms: Mapping[str, Tensor], config: CellObjectiveConfig) -> None:
    """Add terms to the output's loss, each with the weight that is named after it."""
    for name, term in terms.items():
        output.loss = output.loss + getattr(config, f"{name}_weight") * term
        output.terms[f"{name}_loss"] = term.detach()


_GUARDS = Advice(
    "turn on the guards, or raise them, up to the size of what they guard: objective={'variance_weight': ..., "
    "'covariance_weight': ...}; model.config.objective has the weights of this run"
)


class ObjectiveOfCells(Objective):
    """Base of the objectives of dissociated cells: their presets have guards of other sizes, and no SIGReg."""

    ratios: ClassVar = {"loss": TOKENS}
    advice: ClassVar = {
        **ADVICE,
        "collapsed": (
            _GUARDS,
            SLOWER_OR_EMA,
            Advice("masking={'ratio': 0.5}: a low mask ratio makes the task too easy", (("masking", "ratio", 0.5),)),
        ),
        "shrinking": (_GUARDS, SHORTER),
    }


def draw_one(ratios: tuple[float, ...], device: torch.device, generator: torch.Generator | None) -> float:
    """Return one of several ratios, drawn with equal chances."""
    return ratios[int(torch.randint(len(ratios), (), device=device, generator=generator)) if len(ratios) > 1 else 0]


def hide(batch: CellBatch, ratios: tuple[float, ...], generator: torch.Generator | None = None) -> Tensor:
    """Draw the genes to hide: round(ratio · n) of each cell's n, at least one where it has two or more, never all.

    Parameters
    ----------
    batch
        The cells.
    ratios
        Shares, of which one is drawn for the batch.
    generator
        Source of chance, on the batch's device.

    Returns
    -------
    Tensor
        ``(T,)`` bool, true where hidden. ``<cls>`` is no gene and never hidden.
    """
    device = batch.genes.device
    ratio = torch.tensor(draw_one(ratios, device, generator), device=device)
    keys = torch.rand(batch.n_tokens, device=device, generator=generator)
    n_hidden = torch.round(ratio * batch.lengths).long().clamp_min(1)
    n_hidden = torch.minimum(n_hidden, (batch.lengths - 1).clamp_min(0))
    return rank_in_group(batch.sequences, keys) < n_hidden[batch.sequences]


class CellObjective(ObjectiveOfCells):
    """The heads, and the loss that the weights of a :class:`~scjepa.config.CellObjectiveConfig` make of them.

    loss = w_reconstruction · MSE(value head(hidden genes), bins)
    + w_jepa · (1 - cos(predictor(student's <cls>), teacher's <cls>)), or the squared difference,
    + w_cell_reconstruction · MSE(cell value head(gene, student's <cls>), bins) + w_cell_prompt · MSE of a second pass
    + w_contrast · ECS(student's <cls>) + the guards of the JEPA term, where that has a weight.

    Pretraining and fine-tuning share the heads and differ in weights and mask (:meth:`prepare`).

    Parameters
    ----------
    config
        The model's configuration.
    """

    ratios: ClassVar = {
        **ObjectiveOfCells.ratios,
        "cell": Ratio("loss at cells {:.2f} times that of predicting the mean cell", "cells"),
        "views": VIEWS,
    }
    passes = 1.4  # hidden genes, too, look at visible ones: measured

    def __init__(self, config: CellJEPAConfig):
        super().__init__()
        self._width, self._highest = config.encoder.width, config.tokens.n_bins - 1
        self.heads = nn.ModuleDict()
        self.prepare(config.objective, config.masking)

    def prepare(self, objective: CellObjectiveConfig, masking: CellMaskingConfig) -> None:
        """Optimize ``objective`` under ``masking`` from now on; heads it needs are made where they are not there."""
        self.config, self.masking = objective, masking
        reads_tokens = objective.reconstruction_weight > 0 or objective.cell_prompt_weight > 0
        if reads_tokens and "value" not in self.heads:
            self.heads["value"] = ValueHead(self._width, self._highest)
        if objective.jepa_weight > 0 and objective.predictor == "mlp" and "predictor" not in self.heads:
            self.heads["predictor"] = PooledHead(self._width)
        if objective.cell_reconstruction_weight > 0 and "cell_value" not in self.heads:
            self.heads["cell_value"] = CellValueHead(self._width, self._highest)

    def forward(
        self, context: CellEncoder, target: CellEncoder, batch: CellBatch, generator: torch.Generator | None = None
    ) -> ObjectiveOutput:
        """Return the loss of ``batch``; what is hidden is drawn from ``generator``."""
        config = self.config
        hidden = hide(batch, self.masking.ratios, generator)
        cells, tokens = context(batch, hidden)
        cells = cells.float()
        genes, rows, wanted = batch.genes[hidden], batch.sequences[hidden], batch.values[hidden]
        output = ObjectiveOutput(loss=cells.sum() * 0.0)
        terms: dict[str, Tensor] = {}
        several = n_processes() > 1  # then each takes part in all that the others take part in
        if config.reconstruction_weight > 0 and (len(genes) or several):
            error = output.loss
            if len(genes):
                values = self.heads["value"](tokens)
                error = F.mse_loss(values, wanted)
                output.predictions, output.targets, output.genes = values.detach()[:, None], wanted[:, None], genes
            terms["reconstruction"] = mean_over_processes(error, len(genes))
        if config.jepa_weight > 0:
            with torch.no_grad():
                seen = batch if config.target_view == "all" else batch.select(hidden)
                teacher = target(seen)[0].float()
                taught = as_target(gathered(teacher), config)
            if seen is batch:
                output.student, output.teacher = cells.detach(), teacher
            predicted = gathered(self.heads["predictor"](cells).float() if config.predictor == "mlp" else cells)
            distance = JEPA_DISTANCES[config.jepa_distance]
            terms["jepa"] = distance(predicted, taught)
            if config.predictor == "mlp":
                name, other = "cell", taught.mean(0, keepdim=True).expand_as(taught)
            else:  # an embedding does not shrink to the mean where it knows nothing; another cell's is what to beat
                name, other = "views", predicted.detach().roll(1, 0)
            output.ratios[name] = terms["jepa"].detach() / distance(other, taught).clamp_min(1e-12)
            terms |= guards(gathered(cells), config)
        if config.cell_reconstruction_weight > 0 and (len(genes) or several):
            error = output.loss
            if len(genes):
                read = self.heads["cell_value"](context.embedding.gene(genes), cells[rows])
                error = F.mse_loss(read, wanted)
            terms["cell_reconstruction"] = mean_over_processes(error, len(genes))
        if config.cell_prompt_weight > 0 and (batch.n_tokens or several):
            error = output.loss
            if batch.n_tokens:
                prompted = context(batch, torch.ones_like(hidden), cells.detach())[1]
                error = F.mse_loss(self.heads["value"](prompted), batch.values)
            terms["cell_prompt"] = mean_over_processes(error, batch.n_tokens)
        if config.contrast_weight > 0:
            terms["contrast"] = contrast(gathered(cells), gathered(batch.labels), config)
        add_weighted(output, terms, config)
        return output


CELL_POOLING = ("cls", "genes")
"""How a cell becomes one vector: its ``<cls>``, or the mean of its genes' vectors."""

STAGES = ("pretraining", "finetuning")


def check_scale(scale: str) -> None:
    """Refuse the name of a pooling that there is not."""
    if scale not in CELL_POOLING:
        raise ValueError(unknown_name("scale", scale, CELL_POOLING))


class CellJEPAModule(JEPAModule[CellSource, CellBatch]):
    """Student (``context``), EMA teacher (``target``) and objective of Cell-JEPA.

    Parameters
    ----------
    n_genes
        Size of the gene vocabulary.
    config
        The resolved configuration.
    """

    config: CellJEPAConfig
    context: CellEncoder
    target: CellEncoder
    objective: CellObjective

    def __init__(self, n_genes: int, config: CellJEPAConfig):
        super().__init__(config, CellEncoder(n_genes, config), CellObjective(config))

    def begin(self, stage: str) -> None:
        """Take up ``"pretraining"`` or ``"finetuning"``: its weights, its mask, and heads not needed before."""
        if stage not in STAGES:
            raise ValueError(unknown_name("stage", stage, STAGES))
        options = self.config if stage == "pretraining" else self.config.finetuning
        self.objective.prepare(options.objective, options.masking)
        self.objective.to(self.context.embedding.cls.device)

    def forward(self, batch: CellBatch, encoder: str = "target") -> tuple[Tensor, Tensor]:
        """Return ``<cls>``, ``(B, width)``, and gene vectors, ``(T, width)``, of an encoder that sees all values."""
        return self.encoder(encoder)(batch, genes=True)

    def gather(self, source: CellSource, cells: Tensor, generator: torch.Generator | None = None) -> CellBatch:
        """Return the tokens of ``cells``; with ``generator`` long cells' genes are drawn, else chosen by rule."""
        return source.batch(cells, generator)

    def monitored(self, source: CellSource, cells: Tensor, generator: torch.Generator) -> CellBatch:
        """Draw as many genes of a cell as training does: all of them would cost more."""
        return self.gather(source, cells, generator)

    def embed(self, batch: CellBatch, encoder: str = "target", scale: str = "cls") -> Tensor:
        """Return one vector for each cell, ``(B, width)`` float32: 0 for cells without genes."""
        check_scale(scale)
        cells, genes = self.encoder(encoder)(batch, genes=scale == "genes")
        if scale == "genes":
            return mean_by_group(genes.float(), batch.sequences, batch.n_sequences)
        return cells.float() * (batch.lengths > 0)[:, None]
