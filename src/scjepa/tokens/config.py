"""Options of tokens: which genes of a cell, in which order and with which values."""

from __future__ import annotations

from dataclasses import dataclass

from scjepa._core.checks import POSITIVE, one_of
from scjepa._core.features import ANTIBODY, CONTROL, MITOCHONDRIAL, RIBOSOMAL
from scjepa._core.options import AUTO, Config, option, unknown_name

_LEAVABLE = (MITOCHONDRIAL, RIBOSOMAL, CONTROL, ANTIBODY)
"""Kinds of features that can be left out."""


@dataclass(frozen=True)
class TokenRule(Config):
    """Which genes of a cell become tokens, in which order and with which values.

    Parameters
    ----------
    n_tokens
        Genes kept per cell at most: the top non-zero genes by (-rank value, vocabulary id).
    values
        Normalization of the value each token carries, a name in :data:`scjepa.tokens.NORMALIZATIONS`.
    ranks
        Normalization that orders a cell's genes, a name in :data:`scjepa.tokens.NORMALIZATIONS`.
    ties
        ``"order"``: each token has a rank of its own, ties broken by vocabulary id. ``"shared"``: equal values of
        a cell share one rank code (the first of their positions).
    """

    n_tokens: int = option(64, POSITIVE)
    values: str = "counts"
    ranks: str = "counts"
    ties: str = option("order", one_of("order", "shared"))

    @property
    def signed_values(self) -> bool:
        """Whether a token's value can be negative."""
        from scjepa.tokens.normalize import NORMALIZATIONS

        return NORMALIZATIONS[self.values].signed


@dataclass(frozen=True)
class TokenConfig(TokenRule):
    """How a cell and its neighborhood become tokens (Section 2.1 of the paper).

    Parameters
    ----------
    n_tokens
        Genes kept per cell, the paper's L: the top non-zero genes by (-rank value, vocabulary id).
    n_neighbors
        Nearest neighbors of the index cell, the paper's k.
    values
        Normalization of the value each token carries, a name in :data:`scjepa.tokens.NORMALIZATIONS`.
    ranks
        Normalization that orders a cell's genes, a name in :data:`scjepa.tokens.NORMALIZATIONS`. ``"auto"``, in the
        presets ``"demo"``, ``"base"`` and ``"technologies"``: decided from the data once, when the model is made:
        ``"counts"`` on a targeted panel, ``"spatial_ratio"`` where counts are a poor guide, that is where cells have
        2,000 genes or more, or the top 16 by count spread over the genes as fewer than 1 in 20 of them would in equal
        parts.
    left_out
        Kinds of features that never become tokens and are no part of a cell's total, by their names: any of
        ``"mitochondrial"``, ``"ribosomal"``, ``"control probe"`` and ``"antibody"``. ``"auto"``: control probes and
        antibodies, and where counts are a poor guide mitochondrial and ribosomal genes as well.
    ties
        ``"order"``: each token has a rank of its own, ties broken by vocabulary id. ``"shared"``: equal values of
        a cell share one rank code (the first of their positions).
    tokenizer
        ``"graph"``: the index cell and each neighbor are segments of their own. ``"neighborhood"``: the raw counts of
        the index cell and its neighbors are added up, normalized as one cell's would be, and the top ``n_tokens`` genes
        of the sum are the only segment. The cell scale is then the cell's own counts, a neighborhood of one.
    """

    n_neighbors: int = option(10, POSITIVE)
    tokenizer: str = option("graph", one_of("graph", "neighborhood"))
    left_out: tuple[str, ...] | str = ()

    def __post_init__(self) -> None:
        if self.left_out != AUTO:
            kinds = (self.left_out,) if isinstance(self.left_out, str) else tuple(self.left_out)
            for kind in kinds:
                if kind not in _LEAVABLE:
                    raise ValueError(unknown_name("kind in TokenConfig.left_out", kind, (*_LEAVABLE, AUTO)))
            object.__setattr__(self, "left_out", kinds)
        super().__post_init__()

    @property
    def summed(self) -> bool:
        """Whether a neighborhood is one segment, its summed counts."""
        return self.tokenizer == "neighborhood"

    @property
    def apart(self) -> str:
        """What errors say of options that need the cells of a neighborhood one by one."""
        return f"TokenConfig.tokenizer={self.tokenizer!r} tells no cells of a neighborhood apart"

    @property
    def n_segments(self) -> int:
        """Segments of a neighborhood: k + 1, or one where counts are summed."""
        return 1 if self.summed else self.n_neighbors + 1

    def __str__(self) -> str:
        counts = "the summed counts of " if self.summed else ""
        return f"top {self.n_tokens} genes of {counts}a cell and its {self.n_neighbors} nearest neighbors"
