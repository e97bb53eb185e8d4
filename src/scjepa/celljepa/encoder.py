"""The encoder of cells: a ``<cls>`` token and the cell's genes, some of which have their values hidden."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scjepa.celljepa.batch import CellBatch
from scjepa.celljepa.config import CellJEPAConfig
from scjepa.nn.attention import Packing
from scjepa.nn.embedding import VALUE_ENCODERS
from scjepa.nn.encoder import Embedding, Encoder
from scjepa.nn.groups import mean_by_group
from scjepa.nn.masked import MaskedPacking

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
            n_masked = torch.bincount(batch.sequences[hidden], minlength=n)
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
