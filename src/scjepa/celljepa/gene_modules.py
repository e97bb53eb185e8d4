"""Gene modules as tokens: where they come from, and the network that reads cells by them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self, TypeAlias

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from anndata import AnnData
from torch import Tensor, nn

from scjepa._core.anndata import entry_of, flags_of, labels_of, means_none
from scjepa._core.plain import Facts
from scjepa._core.warn import warn
from scjepa.celljepa.config import CellJEPAConfig, CellMaskingConfig, CellObjectiveConfig
from scjepa.celljepa.module import (
    CellEncoder,
    CellJEPAModule,
    ObjectiveOfCells,
    add_weighted,
    as_target,
    check_scale,
    contrast,
    draw_one,
    guards,
)
from scjepa.celljepa.source import CellBatch
from scjepa.datasets import read_gmt
from scjepa.nn.attention import Packing
from scjepa.nn.jepa import JEPAModule, ObjectiveOutput
from scjepa.nn.losses import gathered, mean_over_processes, own
from scjepa.tokens.vocabulary import Vocabulary

FEWEST_GENES = 3
"""Known genes that a module needs to be one."""

ModuleSource: TypeAlias = "str | os.PathLike[str] | Sequence[str] | Mapping[str, Sequence[str]]"


@dataclass(frozen=True)
class GeneModules:
    """Modules of the vocabulary's genes; one gene may be of several.

    Attributes
    ----------
    names
        Names of the modules.
    genes
        Vocabulary ids of each module's genes, sorted.
    """

    names: tuple[str, ...]
    genes: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, source: ModuleSource, adata: AnnData, vocabulary: Vocabulary) -> Self:
        """Build them from a GMT file, columns of ``adata.var`` or named lists.

        Raises
        ------
        KeyError
            If a column is not in ``adata.var``.
        ValueError
            If fewer than two modules have enough genes that the vocabulary knows.
        """
        sets = _named_sets(source, adata)
        found = {name: _known(vocabulary, genes) for name, genes in sets.items()}
        kept = {name: genes for name, genes in found.items() if len(genes) >= FEWEST_GENES}
        if len(kept) < 2:
            examples = [gene for genes in sets.values() for gene in genes][:3]
            raise ValueError(
                f"{len(kept)} of {len(sets)} modules have {FEWEST_GENES} genes or more that the data have; two are "
                f"needed. Genes of the modules: {', '.join(map(repr, examples))}, ...; of the data: "
                f"{', '.join(map(repr, vocabulary.names[:3]))}, ..."
            )
        if len(kept) < len(sets):
            lost = [name for name in sets if name not in kept]
            warn(
                f"{len(lost)} of {len(sets)} modules have fewer than {FEWEST_GENES} genes that the data have and are "
                f"left out, {lost[0]!r} among them."
            )
        return cls(tuple(kept), tuple(kept.values()))

    def facts(self) -> Facts:
        """Return what JSON can hold of it: all."""
        return {"names": list(self.names), "genes": [list(genes) for genes in self.genes]}

    @classmethod
    def from_saved(cls, facts: Facts) -> Self:
        """Build it from what :meth:`facts` gave."""
        return cls(tuple(facts["names"]), tuple(tuple(genes) for genes in facts["genes"]))


def _named_sets(source: ModuleSource, adata: AnnData) -> Mapping[str, Sequence[str]]:
    if isinstance(source, Mapping):
        return source
    if isinstance(source, os.PathLike) or (isinstance(source, str) and source.endswith(".gmt")):
        return read_gmt(source)
    keys = [source] if isinstance(source, str) else list(source)
    sets: dict[str, Sequence[str]] = {}
    for key in keys:
        sets.update(_of_column(adata, key, several=len(keys) > 1))
    return sets


def _of_column(adata: AnnData, key: str, several: bool) -> dict[str, Sequence[str]]:
    """Return the sets of a column of ``var``: of a boolean one the genes that are in, of others one set a value."""
    then = "Name columns that hold modules (scjepa.tl.gene_modules writes one), or pass a .gmt file or a dict."
    column = entry_of(adata, "var", key, then)
    is_category = isinstance(column.dtype, pd.CategoricalDtype)
    if pd.api.types.is_bool_dtype(column.dtype) and not is_category:  # of nullable ones values may be missing
        return {key: list(adata.var_names[flags_of(column)])}
    names = pd.Series(labels_of(column), index=column.index)
    groups = names.dropna()
    doubtful = sorted({name for name in groups.unique() if means_none(name)})
    if doubtful:
        warn(
            f"{(groups == doubtful[0]).sum():,} genes have {doubtful[0]!r} in adata.var[{key!r}], which counts as a "
            f"module. If it means none: adata.var[{key!r}] = adata.var[{key!r}].where(adata.var[{key!r}] != "
            f"{doubtful[0]!r})."
        )
    before = f"{key}:" if several else ""
    return {f"{before}{name}": list(genes) for name, genes in sorted(groups.groupby(groups).groups.items())}


def _known(vocabulary: Vocabulary, genes: Sequence[str]) -> tuple[int, ...]:
    ids = np.unique(vocabulary.ids(list(genes)))
    return tuple(int(i) for i in ids[ids >= 0])


def modules_for(
    config: CellJEPAConfig, modules: ModuleSource | None, adata: AnnData, vocabulary: Vocabulary
) -> GeneModules | None:
    """Return the modules where they are tokens; raise where they are missing, or given for nothing."""
    wanted = config.tokens.unit == "module"
    if wanted == (modules is not None):
        return GeneModules.of(modules, adata, vocabulary) if modules is not None else None
    if wanted:
        raise ValueError(
            "Modules are to be tokens, and none were given: modules='hallmark.gmt', or a column of adata.var, such as "
            "scjepa.tl.gene_modules(adata) writes (modules='module')."
        )
    raise ValueError("modules were given, but genes are tokens here: take preset='modules'.")


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
    n_hidden = min(max(1, round(draw_one(ratios, device, generator) * n_modules)), n_modules - 1)
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
        first, second, last = (nn.Linear(2 * width, n) for n in (2 * width, 2 * width, width))
        self.mlp = nn.Sequential(first, nn.GELU(), second, nn.GELU(), last)

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
            teacher, taught = target(batch)
            wanted = own(as_target(gathered(taught), config))
        rows, modules = hidden.nonzero(as_tuple=True)
        predicted = self.heads["module"](cells[rows], modules).float()
        terms = {"module": mean_over_processes(F.mse_loss(predicted, wanted[hidden]), len(rows))}
        if config.contrast_weight > 0:
            terms["contrast"] = contrast(gathered(cells), gathered(batch.labels), config)
        terms |= guards(gathered(cells), config)
        output = ObjectiveOutput(loss=cells.sum() * 0.0)
        output.predictions, output.targets, output.genes = predicted.detach(), wanted[hidden], modules
        output.student, output.teacher = cells.detach(), teacher.float()
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
        check_scale(scale)
        cells, modules = self.encoder(encoder)(batch)
        vectors = modules.mean(1) if scale == "genes" else cells
        return vectors.float() * (batch.lengths > 0)[:, None]
