"""Cell-JEPA with gene modules as tokens: whole modules are hidden and their teacher embeddings predicted."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scjepa._core.options import unknown_name
from scjepa.celljepa.batch import CellBatch
from scjepa.celljepa.config import CellJEPAConfig, CellMaskingConfig, CellObjectiveConfig
from scjepa.celljepa.encoder import CellEncoder
from scjepa.celljepa.losses import ObjectiveOfCells, add_weighted, as_target, contrast, guards
from scjepa.celljepa.module import CELL_POOLING, CellJEPAModule
from scjepa.nn.attention import Packing
from scjepa.nn.jepa import JEPAModule
from scjepa.nn.objective import ObjectiveOutput


class ModuleEncoder(CellEncoder):
    """The encoder of cells with one token for each gene module.

    A module's token is the sum of its expressed genes' content (gene and value) over the root of the module's size,
    plus a vector of its own, so that a module that the cell does not express is a token too. Genes of no module are not
    seen.

    Parameters
    ----------
    n_genes
        Size of the vocabulary.
    config
        The model's configuration.
    modules
        Vocabulary ids of each module's genes; a gene may be of several.
    """

    members: Tensor
    starts: Tensor
    root_size: Tensor

    def __init__(self, n_genes: int, config: CellJEPAConfig, modules: Sequence[Sequence[int]]):
        super().__init__(n_genes, config)
        self.n_modules = len(modules)
        self.module = nn.Embedding(self.n_modules, config.encoder.width)
        nn.init.normal_(self.module.weight, std=config.encoder.gene_std)
        genes = torch.tensor([gene for genes in modules for gene in genes], dtype=torch.long)
        sizes = torch.tensor([len(genes) for genes in modules])
        # By gene: members[starts[g]:starts[g + 1]] are the modules of gene g. They follow from what is saved beside.
        order = torch.argsort(genes, stable=True)
        counts = torch.bincount(genes, minlength=n_genes)
        self.register_buffer("members", torch.arange(len(sizes)).repeat_interleave(sizes)[order], persistent=False)
        self.register_buffer("starts", F.pad(counts.cumsum(0), (1, 0)), persistent=False)
        self.register_buffer("root_size", sizes.float().sqrt(), persistent=False)

    def tokens(self, batch: CellBatch, hidden: Tensor | None = None) -> Tensor:
        """Return the module tokens, ``(B, M, width)``; no gene of a module of ``hidden``, ``(B, M)`` bool, enters."""
        in_module = (self.starts[batch.genes + 1] > self.starts[batch.genes]).nonzero()[:, 0]
        batch = batch.select(in_module)
        device, m = batch.genes.device, self.n_modules
        first = self.starts[batch.genes]
        counts = self.starts[batch.genes + 1] - first
        token = torch.arange(batch.n_tokens, device=device).repeat_interleave(counts)
        within = torch.arange(len(token), device=device) - (counts.cumsum(0) - counts)[token]
        place = batch.sequences[token] * m + self.members[first[token] + within]
        if hidden is not None:
            seen = torch.ones(batch.n_tokens, dtype=torch.bool, device=device)
            seen[token[hidden.flatten()[place]]] = False
            token, place = token[seen[token]], place[seen[token]]
        content = self.embedding(batch)
        pooled = content.new_zeros(batch.n_sequences * m, content.shape[1]).index_add(0, place, content[token])
        return pooled.view(batch.n_sequences, m, -1) / self.root_size[:, None] + self.module.weight

    def forward(
        self, batch: CellBatch, hidden: Tensor | None = None, cell: Tensor | None = None, genes: bool = True
    ) -> tuple[Tensor, Tensor]:
        """Encode a batch.

        Parameters
        ----------
        batch
            The cells.
        hidden
            ``(B, M)`` bool, as many true in each row: modules that are not there, their genes with them.
        cell
            ``(B, width)`` vectors in the place of ``<cls>``.
        genes
            Taken as by :class:`CellEncoder`; module vectors are always computed.

        Returns
        -------
        tuple
            ``<cls>``, ``(B, width)``, and the vectors of the modules that are there, ``(B, M_there, width)``.
        """
        n = batch.n_sequences
        tokens = self.tokens(batch, hidden)
        width = tokens.shape[2]
        if hidden is not None:
            tokens = tokens[~hidden].view(n, -1, width)
        rows = torch.arange(n, device=tokens.device).repeat_interleave(tokens.shape[1])
        prompt = self.embedding.begin(tokens.reshape(-1, width), rows, n) if cell is None else cell
        tokens = torch.cat([prompt[:, None].to(tokens.dtype), tokens], dim=1)
        layout = Packing(torch.full((n,), tokens.shape[1], device=tokens.device))
        out = self.transformer(tokens.reshape(-1, width), layout).view(n, -1, width)
        return out[:, 0], out[:, 1:]


def hide_modules(
    n: int, n_modules: int, ratios: tuple[float, ...], device: torch.device, generator: torch.Generator | None = None
) -> Tensor:
    """Draw which modules to hide, ``(n, n_modules)`` bool: round(ratio · M) of each cell's, one to M - 1."""
    which = torch.randint(len(ratios), (), device=device, generator=generator) if len(ratios) > 1 else 0
    n_hidden = min(max(1, round(ratios[int(which)] * n_modules)), n_modules - 1)
    keys = torch.rand(n, n_modules, device=device, generator=generator)
    return keys.argsort(dim=1).argsort(dim=1) < n_hidden


class ModulePredictor(nn.Module):
    """From a cell's vector and the identity of a module to the teacher's vector of that module.

    Parameters
    ----------
    width
        Width of cell and module vectors.
    n_modules
        Modules.
    """

    def __init__(self, width: int, n_modules: int):
        super().__init__()
        self.module = nn.Embedding(n_modules, width)
        self.mlp = nn.Sequential(
            nn.Linear(2 * width, 2 * width),
            nn.GELU(),
            nn.Linear(2 * width, 2 * width),
            nn.GELU(),
            nn.Linear(2 * width, width),
        )

    def forward(self, cells: Tensor, modules: Tensor) -> Tensor:
        """Return predictions, ``(n, width)``, for cells ``(n, width)`` and module numbers ``(n,)``."""
        return self.mlp(torch.cat([cells, self.module(modules)], dim=1))


class ModuleObjective(ObjectiveOfCells):
    """Squared L2 distance of predicted from the teacher's module vectors, at hidden modules; nothing is reconstructed.

    loss = w_module · mean((predictor(student's <cls>, module) - teacher's module vector)²)
    + w_contrast · ECS(student's <cls>) + the guards.

    Parameters
    ----------
    config
        The model's configuration.
    n_modules
        Modules.
    """

    passes = 0.08  # genes become a few modules before the encoder's blocks: measured

    def __init__(self, config: CellJEPAConfig, n_modules: int):
        super().__init__()
        self.heads = nn.ModuleDict({"module": ModulePredictor(config.encoder.width, n_modules)})
        self.prepare(config.objective, config.masking)

    def prepare(self, objective: CellObjectiveConfig, masking: CellMaskingConfig) -> None:
        """Optimize ``objective`` under ``masking`` from now on."""
        self.config, self.masking = objective, masking

    def forward(
        self, context: ModuleEncoder, target: ModuleEncoder, batch: CellBatch, generator: torch.Generator | None = None
    ) -> ObjectiveOutput:
        """Return the loss of ``batch``; what is hidden is drawn from ``generator``."""
        config, n = self.config, batch.n_sequences
        hidden = hide_modules(n, context.n_modules, self.masking.ratios, batch.genes.device, generator)
        cells = context(batch, hidden)[0].float()
        with torch.no_grad():
            wanted = as_target(target(batch)[1], config)
        rows, modules = hidden.nonzero(as_tuple=True)
        predicted = self.heads["module"](cells[rows], modules).float()
        terms = {"module": F.mse_loss(predicted, wanted[hidden])}
        if config.contrast_weight > 0:
            terms["contrast"] = contrast(cells, batch.labels, config)
        terms |= guards(cells, config)
        output = ObjectiveOutput(loss=cells.sum() * 0.0)
        output.predictions, output.targets, output.genes = predicted.detach(), wanted[hidden], modules
        add_weighted(output, terms, config)
        return output


class GeneModuleJEPAModule(CellJEPAModule):
    """Student, EMA teacher and objective with gene modules as tokens; all else is that of :class:`CellJEPAModule`.

    Parameters
    ----------
    n_genes
        Size of the gene vocabulary.
    config
        The resolved configuration.
    modules
        Vocabulary ids of each module's genes.
    """

    context: ModuleEncoder  # type: ignore[assignment]
    target: ModuleEncoder  # type: ignore[assignment]
    objective: ModuleObjective  # type: ignore[assignment]

    def __init__(self, n_genes: int, config: CellJEPAConfig, modules: Sequence[Sequence[int]]):
        JEPAModule.__init__(
            self, config, ModuleEncoder(n_genes, config, modules), ModuleObjective(config, len(modules))
        )

    def embed(self, batch: CellBatch, encoder: str = "target", scale: str = "cls") -> Tensor:
        """Return one vector for each cell, ``(B, width)`` float32: 0 for cells without genes."""
        if scale not in CELL_POOLING:
            raise ValueError(unknown_name("scale", scale, CELL_POOLING))
        cells, modules = self.encoder(encoder)(batch)
        vectors = modules.mean(1) if scale == "genes" else cells
        return vectors.float() * (batch.lengths > 0)[:, None]
