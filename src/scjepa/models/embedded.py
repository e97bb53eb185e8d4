"""Embedding all cells into an array, one of the user's, or a file: what the models share of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from scjepa.models.embed import embed
from scjepa.models.estimate import check_memory, embedding_bytes
from scjepa.models.output import LatentFile, check_array, fingerprint
from scjepa.nn import JEPAModule
from scjepa.tokens.source import TableSource


def embed_to(
    out: np.ndarray | str | Path | None,
    module: JEPAModule,
    source: TableSource,
    *,
    scale: str,
    encoder: str,
    batch_size: int | str,
) -> np.ndarray:
    """Return the embeddings of all cells of ``source``: in a new array, in ``out``, or in the file of that name.

    Raises
    ------
    ValueError, TypeError
        If ``out`` cannot be used, or memory will not do.
    FileExistsError
        If there is a file at ``out`` from another model or other data.
    """
    shape = (source.n_cells, module.config.encoder.width)
    check_embedding_memory(module, source, batch_size, 0 if out is not None else 4 * shape[0] * shape[1])
    how: dict[str, Any] = {"scale": scale, "encoder": encoder, "batch_size": batch_size}
    if isinstance(out, str | Path):
        file = LatentFile(out, shape, fingerprint(module, encoder, source, scale))
        if file.done < source.n_cells:
            embed(module, source, file.array, first=file.done, after_chunk=file.keep, **how)
        return file.finish()
    embedding = np.empty(shape, dtype=np.float32) if out is None else check_array(out, *shape)
    embed(module, source, embedding, **how)
    return embedding


def check_embedding_memory(module: JEPAModule, source: TableSource, batch_size: int | str, result_bytes: int) -> None:
    """Refuse what memory will not hold: a large result, or a large batch."""
    check_memory(
        result_bytes,
        torch.device("cpu"),
        f"The result, {source.n_cells:,} cells × {module.config.encoder.width},",
        "Let it be written to a file: get_latent_representation(out='latent.npy').",
    )
    check_memory(
        embedding_bytes(module, source, batch_size),
        source.device,
        f"Embedding with batch_size={batch_size!r}",
        "Lower it, or pass batch_size='auto'.",
    )
