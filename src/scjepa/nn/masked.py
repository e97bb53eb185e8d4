"""Attention in which nobody looks at a masked token, and a masked token looks at the visible ones and at itself.

This is the attention mask of Cell-JEPA (its Section 2.2.3) and of scGPT. Visible tokens come first, then masked ones,
each packed by sequence. The visible tokens are a plain transformer of their own; the masked ones are queries to their
keys, with one key more, which is another for each query: its own.
"""

from __future__ import annotations

from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from scjepa.nn.attention import Packing, attend


class MaskedPacking:
    """Sequences of visible and masked tokens: all visible ones, packed, then all masked ones, packed.

    Parameters
    ----------
    visible
        Visible tokens of each sequence; as keys at least one.
    masked
        Masked tokens of each sequence; zeros are allowed.
    """

    def __init__(self, visible: Packing, masked: Packing):
        self.visible = visible
        self.masked = masked

    @property
    def n_visible(self) -> int:
        """Visible tokens of all sequences."""
        return self.visible.starts[-1]

    @cached_property
    def with_own(self) -> Packing:
        """The keys that a masked query sees: the visible ones and one more."""
        return Packing(self.visible.lengths + 1)

    @cached_property
    def own_last(self) -> Tensor:
        """``(n_visible + n_sequences,)`` order that puts the row behind all visible tokens at each sequence's end."""
        device = self.visible.lengths.device
        order = torch.arange(self.n_visible + len(self.visible.as_list), device=device)
        last = self.with_own.lengths.cumsum(0) - 1
        own = torch.zeros_like(order, dtype=torch.bool)
        own[last] = True
        return torch.where(own, self.n_visible, order - own.cumsum(0))

    def attend(self, q: Tensor, k: Tensor, v: Tensor, rows: MaskedPacking | None, backend: str) -> Tensor:
        """Return the attention output of the queries.

        Parameters
        ----------
        q
            ``(n_queries, n_heads, head_width)``: those of all tokens, or of ``rows``.
        k, v
            ``(n_tokens, n_heads, head_width)``.
        rows
            How many visible tokens of each sequence are asked for; the masked ones always are, all of them.
        backend
            A name in :data:`scjepa.nn.ATTENTION_BACKENDS` or ``"auto"``.
        """
        asked, n = rows or self, self.n_visible
        seen = attend(q[: asked.n_visible], k[:n], v[:n], asked.visible, self.visible, backend)
        if len(k) == n:
            return seen
        return torch.cat([seen, self._attend_masked(q[asked.n_visible :], k, v, backend)])

    def _attend_masked(self, q: Tensor, k: Tensor, v: Tensor, backend: str) -> Tensor:
        """Attend from masked tokens to the visible ones and to themselves, in one call and exactly.

        A key that all queries of a sequence share cannot be another token for each. What can be is its score: with
        one more coordinate, which holds q · k of the token itself in the query, 1 in the shared key and 0 in all
        others, the softmax runs over the right scores. The same coordinate of the values, 1 for that key and 0 for
        all others, gives the weight that the query put on it, and so how much of its own value it gets.
        """
        n, width = self.n_visible, q.shape[2]
        extra = 8 if q.is_cuda else 1  # GPU kernels want a width divisible by 8
        own_score = (q * k[n:]).sum(-1, keepdim=True)
        scale = ((width + extra) / width) ** 0.5  # attention divides by the root of the width it sees
        unit = torch.zeros(1, q.shape[1], width + extra, dtype=k.dtype, device=k.device)
        unit[..., width] = 1.0
        queries = F.pad(torch.cat([q, own_score], dim=-1) * scale, (0, extra - 1))
        keys, values = (torch.cat([F.pad(x[:n], (0, extra)), unit]).index_select(0, self.own_last) for x in (k, v))
        out = attend(queries, keys, values, self.masked, self.with_own, backend)
        return out[..., :width] + out[..., width : width + 1] * v[n:]
