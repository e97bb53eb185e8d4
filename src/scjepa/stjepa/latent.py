"""Embedding with a model of neighborhoods: cells at their scales, genes, and niches; what :class:`STJEPA` hands on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from anndata import AnnData
from torch import Tensor
from tqdm.auto import tqdm

from scjepa._core import keys as _keys
from scjepa._core.plain import seed_of
from scjepa._core.warn import warn
from scjepa.models.embed import CHUNK, Out, check_batch_size, check_embedding_memory, chunks, embed_to, why_empty
from scjepa.models.setup import known_ids
from scjepa.stjepa.masking import MaskedRepresentations, check_masks
from scjepa.stjepa.module import POOLING, STJEPAModule, pool
from scjepa.stjepa.source import Batch, TokenSource

if TYPE_CHECKING:
    from scjepa.stjepa.model import STJEPA

NEIGHBORHOOD = "neighborhood"
"""The scale that is meant where none is named."""

SHARED = "shared"
"""``genes`` that names the genes all technologies measured."""

Genes = str | Sequence[str] | None
"""Genes that may become tokens: ``"shared"``, names, or ``None`` for all."""


def latent(
    model: STJEPA,
    adata: AnnData | None,
    scale: str,
    encoder: str,
    genes: Genes,
    contextual: bool,
    batch_size: int | str,
    out: Out,
) -> np.ndarray:
    """Return the embeddings of the cells of one AnnData object."""
    _check(model, encoder, batch_size, scale)
    ids = gene_ids(model, genes)
    source = source_at(model, adata, ids, scale)
    warn_of_empty(model, source, scale, adata, genes)
    as_given = None if contextual else partial(_pooled_input, model.module, encoder, scale)
    mark = scale if contextual else f"{scale}, as given to the encoder"
    embed = partial(embed_to, out, model.module, source, scale=mark, embed_batch=as_given)
    return embed(encoder=encoder, batch_size=batch_size)


def _check(model: STJEPA, encoder: str, batch_size: int | str, *scales: str) -> None:
    """Refuse options of embedding that are not known, and warn where the model is not trained."""
    for scale in scales:
        _ = POOLING[scale]
    check_batch_size(batch_size)
    model.module.encoder(encoder)
    model._warn_if_untrained()


def _pooled_input(module: STJEPAModule, encoder: str, scale: str, batch: Batch) -> Tensor:
    return pool(module.encoder(encoder).embedding(batch).float(), batch, scale)


def source_at(model: STJEPA, adata: AnnData | None, ids: np.ndarray | None, scale: str) -> TokenSource:
    """Return the source for a scale; where neighborhoods are summed, that of cells is of each cell's own counts."""
    alone = {"alone": True} if scale == "cell" and model.config.tokens.summed else {}
    return model.source(model._tables_of(adata, ids, **alone), model.device)


def masked(
    model: STJEPA,
    adata: AnnData | None,
    n_masks: int,
    ratio: float,
    seed: int,
    scale: str | None,
    encoder: str,
    genes: Genes,
    batch_size: int | str,
) -> MaskedRepresentations:
    """Return the embeddings of all cells with tokens hidden, made when they are asked for."""
    check_masks(n_masks, ratio)
    seed = seed_of(seed)
    scales = (scale,) if scale is not None else (NEIGHBORHOOD, *(name for name in POOLING if name != NEIGHBORHOOD))
    _check(model, encoder, batch_size, *scales)
    ids = gene_ids(model, genes)
    source = source_at(model, adata, ids, scales[0])
    warn_of_empty(model, source, scales[0], adata, genes)
    check_embedding_memory(model.module, source, batch_size, 4 * source.n_cells * model.config.encoder.width)

    @cache
    def by_scale(name: str) -> TokenSource:  # the tables of all scales are one, but where neighborhoods are summed
        alike = name == scales[0] or not model.config.tokens.summed
        return source if alike else source_at(model, adata, ids, name)

    how = {"encoder": encoder, "batch_size": batch_size}
    return MaskedRepresentations(model.module, by_scale, scales, n_masks=n_masks, ratio=ratio, seed=seed, **how)


class GeneMeans:
    """Adds up the contextual tokens of index cells by gene.

    Parameters
    ----------
    n_genes, width
        Genes of the vocabulary, and width of a token.
    device
        Device of the tokens.
    """

    def __init__(self, n_genes: int, width: int, device: torch.device) -> None:
        self._total = torch.zeros(n_genes, width, dtype=torch.float64, device=device)
        self._size = torch.zeros(n_genes, dtype=torch.int64, device=device)

    def add(self, tokens: Tensor, batch: Batch) -> None:
        """Add the tokens of a batch, ``(T, width)``."""
        index = (batch.segments == 0).nonzero()[:, 0]
        genes = batch.genes[index]
        self._total.index_add_(0, genes, tokens[index].double())
        self._size += torch.bincount(genes, minlength=len(self._size))

    def result(self) -> tuple[np.ndarray, np.ndarray]:
        """Return float32 means, ``(n_genes, width)``, NaN without tokens; and ``(n_genes,)`` token numbers."""
        return (self._total / self._size[:, None]).float().cpu().numpy(), self._size.cpu().numpy()


@torch.inference_mode()
def embed_scales(
    module: STJEPAModule,
    source: TokenSource,
    scales: Sequence[str],
    n_genes: int,
    encoder: str,
    batch_size: int | str,
    after_chunk: Callable[[int], None] = lambda _: None,
) -> tuple[dict[str, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Return all that one pass of the encoder gives: the embeddings of cells at each scale, and those of genes.

    Parameters
    ----------
    scales
        Names of poolings; none: genes alone.
    n_genes
        Genes of the vocabulary.
    encoder, batch_size, after_chunk
        As in :func:`scjepa.models.embed.embed`.

    Returns
    -------
    tuple
        ``(n_cells, width)`` float32 by scale, and what :meth:`GeneMeans.result` gives.
    """
    width = module.config.encoder.width
    embeddings = {scale: np.empty((source.n_cells, width), dtype=np.float32) for scale in scales}
    means = GeneMeans(n_genes, width, source.device)
    for stop, chunk in chunks(source, module, batch_size):
        for cells, batch in chunk:
            tokens = module(batch, encoder).float()
            for scale, out in embeddings.items():
                out[cells] = pool(tokens, batch, scale).cpu().numpy()
            means.add(tokens, batch)
        after_chunk(stop)
    return embeddings, means.result()


def gene_representation(model: STJEPA, encoder: str, batch_size: int | str) -> np.ndarray:
    """Return the mean contextual token of each gene of the model's data, ``(n_vars, width)``."""
    _check(model, encoder, batch_size)
    _, (means, sizes) = embed_scales(model.module, model._source(), (), len(model.vocabulary), encoder, batch_size)
    ids = model.vocabulary.ids(model.adata.var_names)
    absent = sizes[ids] == 0
    if absent.any():
        warn(
            f"{absent.sum()} of {len(ids)} genes are among no cell's top {model.config.tokens.n_tokens} genes and "
            f"get NaN, such as {model.adata.var_names[absent.argmax()]!r}. A model with more tokens, "
            "tokens={'n_tokens': ...}, sees more of them."
        )
    return means[ids]


def embed_all(model: STJEPA, adata: AnnData, encoder: str, batch_size: int | str, progress_bar: bool) -> None:
    """Write the embeddings of neighborhoods, cells and genes, of one pass where one will do."""
    _check(model, encoder, batch_size)
    source = model._source(adata)
    # Where a neighborhood's counts are summed no cells are told apart: a cell is a neighborhood of its own counts.
    scales = [NEIGHBORHOOD] if model.config.tokens.summed else list(POOLING)
    for scale in scales:
        warn_of_empty(model, source, scale, adata, None)
    width, n_genes = model.config.encoder.width, len(model.vocabulary)
    check_embedding_memory(model.module, source, batch_size, 4 * width * (2 * source.n_cells + n_genes))
    hidden = not progress_bar or source.n_cells <= CHUNK
    with tqdm(total=source.n_cells, desc="Embedding", unit=" cells", disable=hidden) as bar:
        found, (genes, _) = embed_scales(
            model.module, source, scales, n_genes, encoder, batch_size, lambda done: bar.update(done - bar.n) and None
        )
    if "cell" not in found:
        source = source_at(model, adata, None, "cell")
        warn_of_empty(model, source, "cell", adata, None)
        found["cell"] = embed_to(None, model.module, source, scale="cell", encoder=encoder, batch_size=batch_size)
    adata.obsm[_keys.EMBEDDING], adata.obsm[_keys.EMBEDDING_CELL] = found[NEIGHBORHOOD], found["cell"]
    ids = model.vocabulary.align(adata.var_names, source="adata.var_names").ids
    of_genes = np.full((adata.n_vars, width), np.nan, dtype=np.float32)
    of_genes[ids >= 0] = genes[ids[ids >= 0]]
    adata.varm[_keys.EMBEDDING_GENE] = of_genes


def gene_ids(model: STJEPA, genes: Genes) -> np.ndarray | None:
    """Return the vocabulary ids of ``genes``, ``None`` for all."""
    if genes is None:
        return None
    if isinstance(genes, str):
        if genes != SHARED:
            raise ValueError(f"genes must be 'shared', a list of gene names or None, found {genes!r}.")
        shared = model.panels.shared()
        if not len(shared):
            raise ValueError(
                f"No gene was measured by all of {', '.join(model.panels.technologies)}. Pass genes=[...] or None."
            )
        return shared
    return known_ids(model.vocabulary, genes)


def warn_of_empty(model: STJEPA, source: TokenSource, scale: str, adata: AnnData | None, genes: Genes) -> None:
    """Warn of cells that have no token at a scale, and tell why."""
    lengths = source.neighborhood_lengths() if scale == "neighborhood" else source.cell_lengths()
    empty = (lengths == 0).cpu().numpy()
    if not empty.any():
        return
    adata = model.adata if adata is None else adata
    without = "not of a gene the model knows: model.coverage(adata) tells which it knows."
    if genes is not None:
        without = "not of the genes that genes=... leaves: genes=None takes all that the model knows."
    why = why_empty(empty, adata.obs_names, model._counts_of(adata), without)
    warn(f"{empty.sum():,} cells have no token at the {scale} scale and get a zero embedding. {why}")
