"""Attention over packed sequences: one function, several back-ends, the same numbers.

Packed tensors hold the tokens of all sequences one after the other, shape ``(tokens, heads, head width)``; a
:class:`Packing` says where each sequence ends. ``padded`` is the oracle the others are tested against.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from itertools import accumulate
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from scjepa._config import unknown_name


class Packing:
    """Where the sequences of a packed tensor begin and end.

    Parameters
    ----------
    lengths
        ``(n_sequences,)`` integer tokens of each sequence; zeros are allowed.
    """

    def __init__(self, lengths: Tensor):
        self.lengths = lengths

    @cached_property
    def as_list(self) -> list[int]:
        """The lengths as Python integers (one synchronization with the device for all layers of a pass)."""
        return self.lengths.tolist()

    @cached_property
    def starts(self) -> list[int]:
        """First token of each sequence, and the number of tokens at the end."""
        return [0, *accumulate(self.as_list)]

    @cached_property
    def cumulative(self) -> Tensor:
        """``(n_sequences + 1,)`` int32 as variable-length kernels want it."""
        return F.pad(self.lengths.cumsum(0), (1, 0)).int()

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence."""
        return max(self.as_list, default=0)


def _pad(x: Tensor, starts: list[int], lengths: list[int], rows: list[int]) -> Tensor:
    """Return ``(rows, heads, longest, width)`` of the sequences ``rows``, zeros behind each."""
    longest = max(lengths[r] for r in rows)
    if len(rows) == rows[-1] - rows[0] + 1 and all(lengths[r] == longest for r in rows):
        block = x[starts[rows[0]] : starts[rows[-1] + 1]]
        return block.view(len(rows), longest, *x.shape[1:]).transpose(1, 2)
    pieces = [x[starts[r] : starts[r + 1]] for r in rows]
    return torch.nn.utils.rnn.pad_sequence(pieces, batch_first=True).transpose(1, 2)


def _attend_group(q: Tensor, k: Tensor, v: Tensor, queries: Packing, keys: Packing, rows: list[int]) -> list[Tensor]:
    """Attend within the sequences ``rows`` in one padded call; return one packed tensor for each row."""
    key_lengths = [keys.as_list[r] for r in rows]
    q = _pad(q, queries.starts, queries.as_list, rows)
    k, v = (_pad(x, keys.starts, keys.as_list, rows) for x in (k, v))
    longest = k.shape[2]
    mask = None
    if min(key_lengths) < longest:
        ends = torch.tensor(key_lengths, device=q.device)
        # A row without keys attends to one zero key: its (unused) output is 0 and not NaN.
        mask = torch.arange(longest, device=q.device)[None, :] < ends.clamp_min(1)[:, None]
        mask = mask[:, None, None, :]
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2)
    return [out[i, : queries.as_list[r]] for i, r in enumerate(rows)]


def _padded(q: Tensor, k: Tensor, v: Tensor, queries: Packing, keys: Packing) -> Tensor:
    """All sequences padded to the longest, one call with a key mask."""
    return torch.cat(_attend_group(q, k, v, queries, keys, list(range(len(keys.as_list)))))


def _per_sequence(q: Tensor, k: Tensor, v: Tensor, queries: Packing, keys: Packing) -> Tensor:
    """One call for each sequence: no padding at all."""
    out = []
    for row, (n_queries, n_keys) in enumerate(zip(queries.as_list, keys.as_list, strict=True)):
        if n_queries and n_keys:
            out += _attend_group(q, k, v, queries, keys, [row])
        elif n_queries:
            out.append(torch.zeros_like(q[queries.starts[row] : queries.starts[row + 1]]))
    return torch.cat(out) if out else torch.zeros_like(q)


_BUCKET_WASTE = 0.15
"""Largest share by which a sequence in a bucket may be shorter than the bucket's longest."""


def _bucketed(q: Tensor, k: Tensor, v: Tensor, queries: Packing, keys: Packing) -> Tensor:
    """Sequences of similar length share a call, so little is padded and calls are few."""
    order = sorted(range(len(keys.as_list)), key=lambda r: -keys.as_list[r])
    order = [r for r in order if queries.as_list[r]]
    pieces: dict[int, Tensor] = {}
    while order:
        limit = (1 - _BUCKET_WASTE) * keys.as_list[order[0]]
        size = next((i for i, r in enumerate(order) if keys.as_list[r] < limit), len(order))
        bucket, order = sorted(order[:size]), order[size:]
        pieces.update(zip(bucket, _attend_group(q, k, v, queries, keys, bucket), strict=True))
    return torch.cat([pieces[r] for r in sorted(pieces)]) if pieces else torch.zeros_like(q)


def _varlen(q: Tensor, k: Tensor, v: Tensor, queries: Packing, keys: Packing) -> Tensor:
    """One variable-length kernel for all sequences (CUDA, half precision)."""
    from torch.nn.attention.varlen import varlen_attn

    out = varlen_attn(q, k, v, queries.cumulative, keys.cumulative, queries.longest, keys.longest)
    return cast(Tensor, out)


ATTENTION_BACKENDS: dict[str, Callable[[Tensor, Tensor, Tensor, Packing, Packing], Tensor]] = {
    "padded": _padded,
    "per_sequence": _per_sequence,
    "bucketed": _bucketed,
    "varlen": _varlen,
}
"""Back-ends by name; ``"auto"`` chooses by :func:`choose_backend`."""


def has_varlen() -> bool:
    """Whether this torch has the variable-length kernel."""
    try:
        from torch.nn.attention.varlen import varlen_attn  # noqa: F401
    except ImportError:
        return False
    return torch.cuda.is_available()


def choose_backend(q: Tensor, keys: Packing) -> str:
    """Return the back-end for a query tensor by a fixed rule of device, dtype and shape (never by timing).

    CUDA in half precision: ``varlen``. CUDA otherwise: ``bucketed``. CPU: ``per_sequence`` for long sequences, where
    a call's overhead is small beside the padding it saves, ``bucketed`` for short ones.
    """
    if q.is_cuda:
        return "varlen" if q.dtype in (torch.bfloat16, torch.float16) and has_varlen() else "bucketed"
    n_sequences = max(len(keys.as_list), 1)
    return "per_sequence" if keys.starts[-1] / n_sequences >= 128 else "bucketed"


def attend(
    q: Tensor, k: Tensor, v: Tensor, queries: Packing, keys: Packing | None = None, backend: str = "auto"
) -> Tensor:
    """Scaled dot-product attention within each sequence of a packed batch.

    Parameters
    ----------
    q
        ``(n_query_tokens, n_heads, head_width)``.
    k, v
        ``(n_key_tokens, n_heads, head_width)``.
    queries
        Lengths of the query sequences.
    keys
        Lengths of the key sequences, row by row those of ``queries``; default: the same.
    backend
        A name in :data:`ATTENTION_BACKENDS` or ``"auto"``.

    Returns
    -------
    Tensor
        ``(n_query_tokens, n_heads, head_width)``.
    """
    keys = queries if keys is None else keys
    if backend == "auto":
        backend = choose_backend(q, keys)
    elif backend not in ATTENTION_BACKENDS:
        raise ValueError(unknown_name("attention back-end", backend, ["auto", *ATTENTION_BACKENDS]))
    if not len(q):
        return q
    return ATTENTION_BACKENDS[backend](q, k, v, queries, keys)
