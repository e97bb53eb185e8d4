"""Which genes of a cell become tokens, decided from the data by what ranking them by count would give."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Unpack

import numpy as np
from scipy import sparse

from scjepa._core.counts import CountMatrix, Told, as_csr, iter_rows, shape_of
from scjepa._core.features import ANTIBODY, CONTROL, GENE, MITOCHONDRIAL, RIBOSOMAL, kinds_of
from scjepa._core.options import AUTO
from scjepa.tokens.config import TokenConfig, TokenRule
from scjepa.tokens.table import TokenTable, build_token_table

FEW = 0.05
"""Where the top genes by count spread over fewer than this share of the genes that cells have, others are taken."""
MANY = 2000
"""Genes from which on a panel counts as a whole transcriptome, however few counts a cell has: over 100 a token."""
PROBED = 16
"""Top genes that are looked at: what kind of panel it is does not depend on how many tokens a cell is given."""
_RUNS = 8
"""Runs of rows of a sample of cells."""
_SAME = 3.0
"""Where tokens spread as fewer genes in equal parts than this many times a cell's, all cells have nearly the same."""
_ALLOWED = 0.25
"""Two cells of a panel as small as that share more than this of their tokens however evenly those spread."""

NO_TRANSCRIPTS = (CONTROL, ANTIBODY)
"""Kinds of features that are never tokens unless asked for."""
UBIQUITOUS = (MITOCHONDRIAL, RIBOSOMAL)
"""Kinds of genes that fill the top of every cell of a whole transcriptome."""


@dataclass(frozen=True)
class TokenSpread:
    """Over how many genes the tokens of a data set spread.

    Attributes
    ----------
    n_genes
        Genes that some cell has.
    n_seen
        Genes among the tokens of some cell.
    n_effective
        As how many genes in equal parts they spread: the exponential of the entropy of the genes of all tokens.
    n_tokens
        Tokens of a cell, on average over those that have some.
    overlap
        Share of a cell's tokens that another cell at random has too.
    allowed
        That share if tokens were spread evenly over the genes: the least that the panel allows.
    """

    n_genes: int
    n_seen: int
    n_effective: float
    n_tokens: float
    overlap: float
    allowed: float

    @classmethod
    def of(cls, table: TokenTable, n_genes: int) -> TokenSpread:
        """Return the spread of a table's tokens over ``n_genes`` genes."""
        cells = np.bincount(table.genes, minlength=table.n_vocabulary).astype(np.float64)
        filled = int((table.lengths > 0).sum())
        n_tokens = table.n_tokens / max(filled, 1)
        share = cells[cells > 0] / max(table.n_tokens, 1)
        pairs = float((cells * (cells - 1)).sum()) / max(filled * (filled - 1), 1)
        effective = float(np.exp(-(share * np.log(share)).sum()))
        overlap, allowed = pairs / max(n_tokens, 1e-12), min(1.0, n_tokens / max(n_genes, 1))
        return cls(n_genes, len(share), effective, n_tokens, overlap, allowed)

    @property
    def few(self) -> bool:
        """Whether the tokens spread over a small part of the genes, as the top genes of a whole transcriptome do."""
        return self.allowed <= _ALLOWED and self.n_effective < FEW * self.n_genes

    @property
    def poor(self) -> bool:
        """Whether counts are a poor guide to a cell's tokens: few genes have the most, or there are too many genes."""
        return self.few or self.n_genes >= MANY

    @property
    def same(self) -> bool:
        """Whether the tokens of all cells are nearly the same genes, though the panel would allow others."""
        return self.few and self.n_effective < _SAME * self.n_tokens

    def __str__(self) -> str:
        return (
            f"{self.n_seen:,} of {self.n_genes:,} genes are ever among a cell's top ones, spread as "
            f"{self.n_effective:.0f} in equal parts would be; two cells share {self.overlap:.0%} of theirs "
            f"(spread evenly: {self.allowed:.1%})"
        )


def count_spread(
    counts: CountMatrix, without: np.ndarray | None = None, n_cells: int | None = None, **told: Unpack[Told]
) -> TokenSpread:
    """Return over how many genes the top genes of cells by count spread.

    Parameters
    ----------
    counts
        Raw counts, cells × genes, in any form that :func:`scjepa.tokens.build_token_table` takes.
    without
        ``(n_genes,)`` bool, features to leave out.
    n_cells
        Cells to look at, about, in a few runs of rows; ``None``: all.
    **told
        Names and advice for messages, as in :func:`scjepa.tokens.build_token_table`.

    Raises
    ------
    ValueError
        If no cell has a count, or a count is negative or not finite.
    """
    n_all, n_genes = shape_of(counts)
    if n_cells is not None and n_all > n_cells:
        starts = np.linspace(0, n_all - n_cells // _RUNS, _RUNS).astype(np.int64)
        counts = sparse.vstack([as_csr(counts[start : start + n_cells // _RUNS]) for start in starts], format="csr")
    found = np.zeros(n_genes, dtype=bool)
    for _, rows in iter_rows(counts):
        found[rows.indices] = True
    ids = np.arange(n_genes)
    if without is not None:
        ids[without], found[without] = -1, False
    with warnings.catch_warnings():  # told where the model's tables are made
        warnings.filterwarnings("ignore", message=".*not whole numbers")
        table = build_token_table(counts, ids, n_genes, TokenRule(n_tokens=PROBED), **told)
    return TokenSpread.of(table, int(found.sum()))


def is_auto(config: TokenConfig) -> bool:
    """Return whether something of a configuration is to be decided from the data."""
    return AUTO in (config.ranks, config.left_out)


def choose(config: TokenConfig, names: Sequence[str], spread: Callable[[np.ndarray], TokenSpread]) -> TokenConfig:
    """Decide what is to be decided from the data: what ranks a cell's genes, and which features are left out.

    Control probes and antibodies are left out wherever names tell them. Ranked by count, the genes of a targeted panel
    spread over the panel. Of a whole transcriptome few of thousands fill all cells (:attr:`TokenSpread.few`), or, where
    cells have few counts, whatever they happen to have. There (:attr:`TokenSpread.poor`) genes are ranked by the count
    over the gene's mean, weighted by what the gene tells of surroundings
    (:class:`scjepa.tokens.normalize.SpatialRatio`), and mitochondrial and ribosomal genes are left out.

    Parameters
    ----------
    config
        The configuration, with ``"auto"`` where the data decides.
    names
        Names of the features.
    spread
        Gives the spread of the top genes by count without some features, ``(n,)`` bool (:func:`count_spread`).

    Returns
    -------
    TokenConfig
        A concrete one.
    """
    if not is_auto(config):
        return config
    present = set(kinds_of(names))
    never = tuple(kind for kind in NO_TRANSCRIPTS if kind in present and present.difference(NO_TRANSCRIPTS))
    never_or_asked = never if config.left_out == AUTO else config.left_out
    plain = replace(config, ranks="counts" if config.ranks == AUTO else config.ranks, left_out=never_or_asked)
    if not spread(left_out(plain, names)).poor:
        return plain
    out = never_or_asked
    if config.left_out == AUTO and GENE in present:
        out = (*never, *(kind for kind in UBIQUITOUS if kind in present))
    return replace(plain, ranks="spatial_ratio" if config.ranks == AUTO else config.ranks, left_out=out)


def left_out(config: TokenConfig, names: Sequence[str]) -> np.ndarray:
    """Return ``(n,)`` bool: which features are of a kind that the configuration leaves out."""
    if not config.left_out:
        return np.zeros(len(names), dtype=bool)
    return np.isin(kinds_of(names).astype(str), config.left_out)


_WORDS = {"counts": "count", "spatial_ratio": "count over the gene's mean × what the gene tells of places"}


def describe_tokens(config: TokenConfig, names: Sequence[str]) -> str:
    """Return in words what ranks a cell's genes and how many features are left out."""
    kinds = kinds_of(names)
    counted = [(kind, int((kinds == kind).sum())) for kind in config.left_out]
    parts = ", ".join(f"{n:,} {kind}" for kind, n in counted if n)
    ranks = _WORDS.get(config.ranks, config.ranks)
    return f"ranked by {ranks}" + (f"; left out: {parts}" if parts else "")


SAME_BY_COUNT = "Ranked by count"
"""How :func:`same_by_count` begins."""


def same_by_count(spread: TokenSpread) -> str | None:
    """Return the sentence about data whose cells have nearly the same top genes by count; ``None``: they have not."""
    if not spread.same:
        return None
    return (
        f"{SAME_BY_COUNT}, the top {PROBED} genes of all cells are nearly the same: {spread}. Niches can hardly be "
        "told from them. The presets but the paper's rank genes otherwise here; with those pass "
        "tokens={'ranks': 'auto', 'left_out': 'auto'}."
    )
