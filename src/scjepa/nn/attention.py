"""Attention over packed sequences: one function, several back-ends, the same numbers.

Packed tensors hold the tokens of all sequences one after the other, shape ``(tokens, heads, head width)``; a
:class:`Packing` says where each sequence ends, a :class:`MaskedPacking` which of its tokens nobody looks at. ``padded``
is the oracle the back-ends are tested against.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any, Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from scjepa._core.options import unknown_name


def rank_in_group(groups: Tensor, keys: Tensor) -> Tensor:
    """Return the position of each element among its group's when ordered by ``keys``; ``groups`` is non-decreasing."""
    order = torch.argsort(keys, stable=True)
    order = order[torch.argsort(groups[order], stable=True)]
    places = torch.arange(len(order), device=order.device)
    starts = torch.zeros_like(places)  # of the group of each place: sorted groups are groups again
    starts[1:] = torch.where(groups[1:] == groups[:-1], 0, places[1:])
    ranks = torch.empty_like(order)
    ranks[order] = places - starts.cummax(0).values
    return ranks


def count_by_group(groups: Tensor, n_groups: int, among: Tensor | None = None) -> Tensor:
    """Return ``(n_groups,)`` int64 elements of each group; ``among``, ``(n,)`` bool, are those that count.

    ``torch.bincount`` has to wait for the device to know how long its result is; here that is said.
    """
    ones = torch.ones_like(groups) if among is None else among.to(groups.dtype)
    return torch.zeros(n_groups, dtype=groups.dtype, device=groups.device).scatter_add_(0, groups, ones)


def mean_by_group(x: Tensor, groups: Tensor, n_groups: int) -> Tensor:
    """Return the mean row of ``x`` in each group, ``(n_groups, width)``; zeros for empty groups."""
    total = torch.zeros(n_groups, x.shape[1], dtype=x.dtype, device=x.device).index_add(0, groups, x)
    size = count_by_group(groups, n_groups).clamp_min(1)
    return total / size[:, None]


class Layout(Protocol):
    """Which tokens of a packed tensor attend to which; a transformer needs to know no more of its sequences."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, rows: Any, backend: str) -> Tensor:
        """Return the attention output of all tokens, or of ``rows`` (a layout of the same kind) of each sequence."""


class Packing:
    """Where the sequences of a packed tensor begin and end.

    Parameters
    ----------
    lengths
        ``(n_sequences,)`` integer tokens of each sequence; zeros are allowed.
    """

    def __init__(self, lengths: Tensor):
        self.lengths = lengths
        self._plans: dict[tuple[str, Packing], Plan] = {}

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

    def attend(self, q: Tensor, k: Tensor, v: Tensor, rows: Packing | None, backend: str) -> Tensor:
        """Return the attention output of all tokens, or of ``rows`` of each sequence; see :func:`attend`."""
        return attend(q, k, v, self if rows is None else rows, self, backend)

    def plan(self, backend: str, keys: Packing) -> Plan:
        """Return how queries of this packing meet keys of that one; made once, then used by every layer."""
        place = (backend, keys)
        if place not in self._plans:
            self._plans[place] = Plan.make(self, keys, _GROUPINGS[backend](self, keys))
        return self._plans[place]


@dataclass(frozen=True)
class _Side:
    """How the rows of a group are cut out of a packed tensor: a plain slice, or an index into it."""

    n_rows: int
    longest: int
    first: int
    index: Tensor | None

    @classmethod
    def of(cls, packing: Packing, rows: list[int]) -> _Side:
        lengths = [packing.as_list[r] for r in rows]
        longest = max(lengths)
        first = packing.starts[rows[0]]
        if min(lengths) == longest and rows == list(range(rows[0], rows[0] + len(rows))):
            return cls(len(rows), longest, first, None)
        device = packing.lengths.device
        starts = torch.tensor([packing.starts[r] for r in rows], device=device)
        last = torch.tensor(lengths, device=device).sub_(1).clamp_min_(0)
        index = starts[:, None] + torch.minimum(torch.arange(longest, device=device)[None, :], last[:, None])
        # A sequence without tokens at the very end starts behind the last token.
        return cls(len(rows), longest, first, index.reshape(-1).clamp_(max=max(packing.starts[-1] - 1, 0)))

    def cut(self, x: Tensor) -> Tensor:
        """Return ``(rows, heads, longest, width)``; what lies behind a sequence's end repeats one of its tokens."""
        if self.index is None:
            taken = x[self.first : self.first + self.n_rows * self.longest]
        else:
            taken = x.index_select(0, self.index)
        return taken.reshape(self.n_rows, self.longest, *x.shape[1:]).transpose(1, 2)


@dataclass(frozen=True)
class _Group:
    """Sequences that share one attention call."""

    queries: _Side
    keys: _Side
    mask: Tensor | None
    keep: Tensor | None

    @classmethod
    def of(cls, queries: Packing, keys: Packing, rows: list[int]) -> _Group:
        device = keys.lengths.device
        side_q, side_k = _Side.of(queries, rows), _Side.of(keys, rows)
        n_keys = [keys.as_list[r] for r in rows]
        mask = keep = None
        if min(n_keys) < side_k.longest:
            ends = torch.tensor(n_keys, device=device)
            mask = (torch.arange(side_k.longest, device=device)[None, :] < ends[:, None])[:, None, None, :]
        n_queries = [queries.as_list[r] for r in rows]
        if min(n_queries) < side_q.longest:
            ends = torch.tensor(n_queries, device=device)
            real = torch.arange(side_q.longest, device=device)[None, :] < ends[:, None]
            keep = real.reshape(-1).nonzero()[:, 0]
        return cls(side_q, side_k, mask, keep)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Return the real queries' outputs, packed."""
        out = F.scaled_dot_product_attention(
            self.queries.cut(q), self.keys.cut(k), self.keys.cut(v), attn_mask=self.mask
        )
        out = out.transpose(1, 2).reshape(-1, *q.shape[1:])
        return out if self.keep is None else out.index_select(0, self.keep)


@dataclass(frozen=True)
class Plan:
    """All groups of a batch, and the order in which their outputs are the packed batch again."""

    groups: list[_Group]
    order: Tensor | None

    @classmethod
    def make(cls, queries: Packing, keys: Packing, groups: list[list[int]]) -> Plan:
        """Lay out ``groups`` of sequences; sequences without queries or without keys are in none of them."""
        laid = [row for rows in groups for row in rows]
        order = None
        everyone = [r for r, n in enumerate(queries.as_list) if n]
        if laid != everyone:
            # Outputs come group by group; rows without keys take the zero that is put behind them.
            total = sum(queries.as_list[r] for r in laid)
            place = torch.full((queries.starts[-1],), total, dtype=torch.long)
            at = 0
            for row in laid:
                n = queries.as_list[row]
                place[queries.starts[row] : queries.starts[row] + n] = torch.arange(at, at + n)
                at += n
            order = place.to(queries.lengths.device)
        return cls([_Group.of(queries, keys, rows) for rows in groups], order)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Return the attention output of every query, packed."""
        parts = [group.attend(q, k, v) for group in self.groups]
        if self.order is None:
            return parts[0] if len(parts) == 1 else torch.cat(parts)
        return torch.cat([*parts, q.new_zeros(1, *q.shape[1:])]).index_select(0, self.order)


def _attended(queries: Packing, keys: Packing) -> list[int]:
    """Return the sequences that have queries and keys; without keys an output is 0."""
    return [r for r, (q, k) in enumerate(zip(queries.as_list, keys.as_list, strict=True)) if q and k]


def _one_group(queries: Packing, keys: Packing) -> list[list[int]]:
    """All sequences padded to the longest."""
    rows = _attended(queries, keys)
    return [rows] if rows else []


def _own_groups(queries: Packing, keys: Packing) -> list[list[int]]:
    """Each sequence by itself: no padding at all."""
    return [[row] for row in _attended(queries, keys)]


_BUCKET_WASTE = 0.15
"""Largest share by which a sequence in a bucket may be shorter than the bucket's longest."""


def _buckets(queries: Packing, keys: Packing) -> list[list[int]]:
    """Sequences of similar length share a call, so that little is padded and calls are few."""
    order = sorted(_attended(queries, keys), key=lambda r: -keys.as_list[r])
    groups = []
    while order:
        limit = (1 - _BUCKET_WASTE) * keys.as_list[order[0]]
        size = next((i for i, r in enumerate(order) if keys.as_list[r] < limit), len(order))
        groups.append(sorted(order[:size]))
        order = order[size:]
    return groups


_GROUPINGS: dict[str, Callable[[Packing, Packing], list[list[int]]]] = {
    "padded": _one_group,
    "per_sequence": _own_groups,
    "bucketed": _buckets,
}


def _varlen(q: Tensor, k: Tensor, v: Tensor, queries: Packing, keys: Packing) -> Tensor:
    """One variable-length kernel for all sequences (CUDA, half precision)."""
    from torch.nn.attention.varlen import varlen_attn

    out = varlen_attn(q, k, v, queries.cumulative, keys.cumulative, queries.longest, keys.longest)
    return cast(Tensor, out)


def has_varlen() -> bool:
    """Whether this torch has the variable-length kernel and a device to run it on."""
    try:
        from torch.nn.attention.varlen import varlen_attn  # noqa: F401
    except ImportError:
        return False
    return torch.cuda.is_available()


ATTENTION_BACKENDS = (*_GROUPINGS, "varlen")
"""Back-ends by name; ``"auto"`` chooses by :func:`choose_backend`."""


def choose_backend(q: Tensor) -> str:
    """Return the back-end for a query tensor by a fixed rule of device and dtype, never by timing.

    CUDA in half precision: ``varlen``; everything else: ``bucketed``.
    """
    half = q.dtype in (torch.bfloat16, torch.float16)
    return "varlen" if q.is_cuda and half and has_varlen() else "bucketed"


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
        ``(n_query_tokens, n_heads, head_width)``; 0 for queries of a sequence without keys.
    """
    keys = queries if keys is None else keys
    if backend == "auto":
        backend = choose_backend(q)
    elif backend not in ATTENTION_BACKENDS:
        raise ValueError(unknown_name("attention back-end", backend, ["auto", *ATTENTION_BACKENDS]))
    if not len(q):
        return q
    if backend == "varlen":
        return _varlen(q, k, v, queries, keys)
    return queries.plan(backend, keys).attend(q, k, v)


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
