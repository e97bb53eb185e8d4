"""What is read off a trained model of tissues: embeddings of all scales, and embeddings with tokens hidden."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import torch
from anndata import AnnData
from torch import Tensor

from scjepa._core import keys as _keys
from scjepa._core.options import unknown_name
from scjepa._core.warn import warn
from scjepa.models import embed
from scjepa.models.embed import AUTO, Out
from scjepa.models.setup import known_ids
from scjepa.nn import float32_default
from scjepa.nn.attention import rank_in_group
from scjepa.stjepa.module import POOLING, STJEPAModule, pool
from scjepa.stjepa.source import Batch, TokenSource

if TYPE_CHECKING:
    from scjepa.stjepa.config import STJEPAConfig
    from scjepa.stjepa.model import STJEPA

Genes: TypeAlias = "str | Sequence[str] | None"
"""Genes that may become tokens: ``"shared"``, names, or ``None`` for all."""


def refuse_summed(config: STJEPAConfig, what: str) -> None:
    """Refuse a model that tells no neighbors apart.

    Raises
    ------
    ValueError
        With what tells them apart.
    """
    if config.tokens.summed:
        raise ValueError(
            f"{what} needs a model that tells neighbors apart, and {config.tokens.apart}: train one with "
            "tokens={'tokenizer': 'graph'}, or use the linear method, scjepa.tl.niche_drivers(adata) and its kin."
        )


def check(model: STJEPA, encoder: str, batch_size: int | str, *scales: str) -> None:
    """Refuse options of embedding that are not known, and warn where the model is not trained."""
    for scale in scales:
        _ = POOLING[scale]
    embed.check_batch_size(batch_size)
    model.module.encoder(encoder)
    model._warn_if_untrained()


def source_of(
    model: STJEPA, adata: AnnData | None, genes: Genes, encoder: str, batch_size: int | str, *scales: str
) -> TokenSource:
    """Return the source for the first of ``scales``, once all options are known to be usable."""
    check(model, encoder, batch_size, *scales)
    source = model._source_at(adata, scales[0], gene_ids(model, genes))
    warn_of_empty(model, source, scales[0], adata, genes)
    return source


def gene_ids(model: STJEPA, genes: Genes) -> np.ndarray | None:
    """Return the vocabulary ids of ``genes``, ``None`` for all."""
    if genes is None:
        return None
    if not isinstance(genes, str):
        return known_ids(model.vocabulary, genes)
    if genes != "shared":
        raise ValueError(f"genes must be 'shared', a list of gene names or None, found {genes!r}.")
    shared = model.panels.shared()
    if not len(shared):
        raise ValueError(f"No gene was measured by all of {', '.join(model.technologies)}. Pass genes=[...] or None.")
    return shared


def warn_of_empty(model: STJEPA, source: TokenSource, scale: str, adata: AnnData | None, genes: Genes) -> None:
    """Warn of cells that have no token at a scale, and tell why."""
    lengths = source.neighborhood_lengths() if scale == model._scale else source.cell_lengths()
    empty = (lengths == 0).cpu().numpy()
    if not empty.any():
        return
    adata = model.adata if adata is None else adata
    without = "not of a gene the model knows: model.coverage(adata) tells which it knows."
    if genes is not None:
        without = "not of the genes that genes=... leaves: genes=None takes all that the model knows."
    why = embed.why_empty(empty, adata.obs_names, model._counts_of(adata), without)
    warn(f"{empty.sum():,} cells have no token at the {scale} scale and get a zero embedding. {why}")


def latent(
    model: STJEPA,
    adata: AnnData | None,
    out: Out = None,
    *,
    scale: str,
    encoder: str,
    genes: Genes,
    contextual: bool,
    batch_size: int | str,
) -> np.ndarray:
    """Return the embeddings of the cells of ``adata``, as :meth:`scjepa.STJEPA.get_latent_representation` says."""

    def pooled_input(batch: Batch) -> Tensor:
        return pool(model.module.encoder(encoder).embedding(batch).float(), batch, scale)

    source = source_of(model, adata, genes, encoder, batch_size, scale)
    mark, by = (scale, None) if contextual else (f"{scale}, as given to the encoder", pooled_input)
    as_told = partial(embed.embed_to, out, model.module, source, encoder=encoder, batch_size=batch_size)
    return as_told(scale=mark, embed_batch=by)


def embed_all(model: STJEPA, adata: AnnData, encoder: str, batch_size: int | str, progress_bar: bool | None) -> None:
    """Write the embeddings of neighborhoods, cells and genes, of one pass where one will do."""
    check(model, encoder, batch_size)
    source = model._source(adata)
    # Where a neighborhood's counts are summed no cells are told apart: a cell is a neighborhood of its own counts.
    scales = [model._scale] if model.config.tokens.summed else list(POOLING)
    for scale in scales:
        warn_of_empty(model, source, scale, adata, None)
    width = model.config.encoder.width
    n_rows = 2 * source.n_cells + len(model.vocabulary)
    embed.check_embedding_memory(model.module, source, batch_size, 4 * width * n_rows)
    found, genes, _ = embed_scales(model, source, scales, encoder, batch_size, progress_bar)
    if "cell" not in found:
        source = model._source_at(adata, "cell")
        warn_of_empty(model, source, "cell", adata, None)
        found["cell"] = embed.embed_to(None, model.module, source, scale="cell", encoder=encoder, batch_size=batch_size)
    adata.obsm[_keys.EMBEDDING], adata.obsm[_keys.EMBEDDING_CELL] = found[model._scale], found["cell"]
    ids = model.vocabulary.align(adata.var_names, source="adata.var_names").ids
    of_genes = np.full((adata.n_vars, width), np.nan, dtype=np.float32)
    of_genes[ids >= 0] = genes[ids[ids >= 0]]
    adata.varm[_keys.EMBEDDING_GENE] = of_genes


@torch.inference_mode()
def embed_scales(
    model: STJEPA,
    source: TokenSource,
    scales: Sequence[str],
    encoder: str,
    batch_size: int | str,
    progress_bar: bool | None = None,
) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """Return all that one pass gives: embeddings of cells by scale; means and numbers of each gene's tokens.

    The tokens of a gene are those of index cells; without any its mean, float32 of shape (n_genes, width), is NaN.
    """
    n_genes, width = len(model.vocabulary), model.config.encoder.width
    embeddings = {scale: np.empty((source.n_cells, width), dtype=np.float32) for scale in scales}
    total = torch.zeros(n_genes, width, dtype=torch.float64, device=source.device)
    size = torch.zeros(n_genes, dtype=torch.int64, device=source.device)
    for _, chunk in embed.chunks(source, model.module, batch_size, progress_bar=progress_bar):
        for cells, batch in chunk:
            tokens = model.module(batch, encoder).float()
            for scale, out in embeddings.items():
                out[cells] = pool(tokens, batch, scale).cpu().numpy()
            index = (batch.segments == 0).nonzero()[:, 0]
            total.index_add_(0, batch.genes[index], tokens[index].double())
            size += torch.bincount(batch.genes[index], minlength=n_genes)
    return embeddings, (total / size[:, None]).float().cpu().numpy(), size.cpu().numpy()


# -- hiding ------------------------------------------------------------------------------------------------------------

HIDDEN = ("share", "cell")
"""What masked embeddings hide: a share of each cell's tokens, or the index cell."""


def masked(
    model: STJEPA,
    adata: AnnData | None,
    hide: str,
    masks: tuple[int, float, int],
    scale: str | None,
    encoder: str,
    genes: Genes,
    batch_size: int | str,
) -> MaskedRepresentations:
    """Return masked embeddings, as :meth:`scjepa.STJEPA.get_masked_representations` says.

    Parameters
    ----------
    masks
        How many, the share of each cell's tokens that is hidden, and the seed; mask m of a seed is the same however
        many are drawn.
    """
    n_masks, ratio, seed = masks
    if hide not in HIDDEN:
        raise ValueError(unknown_name("choice of hide", hide, HIDDEN))
    if n_masks < 1:
        raise ValueError(f"n_masks must be 1 or more, found {n_masks}.")
    if not 0 < ratio < 1:
        raise ValueError(f"ratio must lie between 0 and 1, found {ratio}.")
    if scale is None and hide == "share":
        scales = (model._scale, *(name for name in POOLING if name != model._scale))
    else:
        scales = (model._scale if scale is None else scale,)
    hidden: list[Callable[[Batch], Tensor]]
    hidden = [partial(visible, ratio=ratio, seed=seed, number=number) for number in range(n_masks)]
    if hide == "cell":
        refuse_summed(model.config, "hide='cell'")
        if scales != (model._scale,):
            raise ValueError("hide='cell' leaves the neighbors alone, and scale='cell' is the cell: leave scale out.")
        hidden = [lambda batch: batch.segments != 0]
    source = source_of(model, adata, genes, encoder, batch_size, *scales)
    embed.check_embedding_memory(model.module, source, batch_size, 4 * source.n_cells * model.config.encoder.width)

    @cache
    def by_scale(name: str) -> TokenSource:  # the tables of all scales are one, but where neighborhoods are summed
        alike = name == scales[0] or not model.config.tokens.summed
        return source if alike else model._source_at(adata, name, gene_ids(model, genes))

    return MaskedRepresentations(model.module, by_scale, scales, hidden, encoder, batch_size)


_PROBES, _NEAR = 32, 0.01
"""Cells by which an embedding is known again, and the share of its size by which it may differ."""


class MaskedRepresentations:
    """Embeddings of all cells with tokens hidden, one for each mask, made when they are asked for.

    Parameters
    ----------
    module
        The model.
    source
        Gives the tokens of all cells for a scale.
    scales
        Scales that may be meant, the default first.
    masks
        Each gives of a batch which tokens it leaves visible, ``(T,)`` bool.
    encoder, batch_size
        As in :meth:`scjepa.STJEPA.get_latent_representation`.
    """

    def __init__(
        self,
        module: STJEPAModule,
        source: Callable[[str], TokenSource],
        scales: Sequence[str],
        masks: Sequence[Callable[[Batch], Tensor]],
        encoder: str,
        batch_size: int | str = AUTO,
    ):
        self._module, self._source, self._scales = module, source, scales
        self._masks, self._encoder, self._batch_size = masks, encoder, batch_size
        self._arrays = self._at(scales[0])

    def __iter__(self) -> Iterator[np.ndarray]:
        return self

    def __next__(self) -> np.ndarray:
        return next(self._arrays)

    def _at(self, scale: str) -> Iterator[np.ndarray]:
        """Yield for each mask the embeddings of all cells at ``scale``, float32 of shape (n_cells, width)."""
        source = self._source(scale)
        for mask in self._masks:
            out = np.empty((source.n_cells, self._module.config.encoder.width), dtype=np.float32)

            def embed_batch(batch: Batch, mask: Callable[[Batch], Tensor] = mask) -> Tensor:
                return self._module.embed(batch.select(mask(batch)), self._encoder, scale)

            embed.embed(self._module, source, out, embed_batch, batch_size=self._batch_size)
            yield out

    def made_as(self, embedding: np.ndarray) -> Iterator[np.ndarray] | None:
        """Return masked embeddings at the scale of ``embedding``; ``None`` where it is not what the model gives.

        Parameters
        ----------
        embedding
            ``(n_cells, n_latent)``, of all cells.
        """
        for scale in self._scales:
            source = self._source(scale)
            if embedding.shape != (source.n_cells, self._module.config.encoder.width):
                return None
            cells = np.unique(np.linspace(0, source.n_cells - 1, _PROBES).astype(np.int64))
            with torch.inference_mode():
                found = self._module.embed(source.batch(torch.from_numpy(cells)), self._encoder, scale)
            apart = np.linalg.norm(found.cpu().numpy() - embedding[cells])
            if apart <= _NEAR * np.linalg.norm(embedding[cells]):
                return self._at(scale)
        return None


@float32_default()
def visible(batch: Batch, ratio: float, seed: int, number: int) -> Tensor:
    """Return ``(T,)`` bool, true for the tokens that mask ``number`` of ``seed`` leaves visible.

    Of each cell round(ratio · n) of n tokens are hidden, as the ``"stratified"`` scheme does in training (Section 2.3),
    but never all. What is hidden is decided by what is in a neighborhood and not by where it stands, so that neither
    the batch size nor the order of cells or genes changes a masked embedding.
    """
    token = _mixed(_mixed(batch.genes) + _mixed(batch.values.view(torch.int32).long()) + batch.segments)
    neighborhood = torch.zeros(batch.n_sequences, dtype=torch.int64, device=token.device)
    neighborhood.index_add_(0, batch.sequences, token)
    drawn = _mixed(neighborhood + _mixed(torch.tensor(1_000_003 * seed + number, device=token.device)))
    place = rank_in_group(batch.blocks, _mixed(token + drawn[batch.sequences]))
    sizes = torch.bincount(batch.blocks)
    hidden = torch.minimum(torch.round(ratio * sizes).long(), sizes - 1)
    return place >= hidden[batch.blocks]


def _mixed(x: Tensor) -> Tensor:
    """Return int64 numbers scattered as if at random (the finalizer of splitmix64)."""
    for shift, factor in ((30, -4658895280553007687), (27, -7723592293110705685)):
        x = (x ^ _right(x, shift)) * factor
    return x ^ _right(x, 31)


def _right(x: Tensor, shift: int) -> Tensor:
    """Shift the 64 bits right, filling with zeros (torch's own shift keeps the sign)."""
    return (x >> shift) & ((1 << (64 - shift)) - 1)
