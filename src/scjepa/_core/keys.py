"""Every name scjepa reads from or writes to an AnnData object, once."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection
from typing import Final

SPATIAL: Final = "spatial"
"""``obsm`` key of the coordinates and squidpy's default ``key_added`` of the spatial graph."""

EMBEDDING: Final = "X_stjepa"
"""``obsm`` key of neighborhood embeddings (the tutorials' name; the user chooses it)."""

EMBEDDING_CELL: Final = "X_stjepa_cell"
"""``obsm`` key of cell embeddings."""

EMBEDDING_NICHE: Final = "X_stjepa_niche"
"""``obsm`` key of the read-out that :func:`scjepa.tl.niche_readout` writes."""

PREDICTIVE: Final = "X_predictive"
"""``obsm`` and ``varm`` key of what :func:`scjepa.tl.predictive_components` writes."""

SHARED: Final = "X_shared"
"""``obsm`` key of what :func:`scjepa.tl.shared_components` writes."""

EMBEDDING_GENE: Final = "X_stjepa_gene"
"""``varm`` key of gene embeddings."""

EXPRESSION: Final = "X"
"""Source of a read-out that is raw counts, as scanpy calls them; any other is an embedding."""

NICHE: Final = "niche"
"""``obs`` key of the niches that :func:`scjepa.tl.niches` writes."""

NICHE_CONFIDENCE: Final = "niche_confidence"
"""``obs`` key of each cell's confidence that :func:`scjepa.tl.niche_confidence` writes."""

NICHE_MARKERS: Final = "rank_genes_niche"
"""``uns`` key of the marker genes of niches, in scanpy's format; the user's own ``rank_genes_groups`` is left alone."""

ENRICHMENT_SUFFIX: Final = "_nhood_enrichment"
"""What squidpy puts behind a column's name for the ``uns`` key of its neighborhood enrichment."""

NICHE_NEIGHBORS: Final = "scjepa_niche"
"""``uns``/``obsp`` key of the nearest-neighbor graph of embeddings; the user's own ``neighbors`` is left alone."""

UNS: Final = "scjepa"
"""``uns`` key of what scjepa's functions record about how a result was made."""

PANEL: Final = "panel"
"""``varm`` key of the table that :func:`scjepa.concat` writes: which technology measured which gene."""

SECTION: Final = "section"
TECHNOLOGY: Final = "technology"
REGION: Final = "region"
CELL_TYPE: Final = "cell_type"

UNLABELLED: Final = ("unlabelled", "unlabeled")
"""Labels that mean "no label" by default; the first is what cells without one are called."""

UNKNOWN: Final = "unknown"
"""What cells are called that lie farther from all that is known than held-out cells do."""

ANNOTATION_PARTS: Final = ("confidence", "p_value", "evidence", "nearest", "term", "doublet")
"""What :func:`scjepa.tl.annotate` puts behind the ``obs`` column of labels, ``f"{key}_confidence"`` and so on."""

_MOST_BYTES = 120
"""Bytes of a key at most: zarr makes a file of each, with a suffix of its own."""

_NO_KEY = re.compile(r"_index|\.*|__.*|.*[/\\\x00-\x1f\x7f].*|\s.*|.*\s", re.DOTALL)
"""What h5ad or zarr cannot take, or keep, as the name of a column or an entry."""


def as_key(name: str) -> str:
    """Return a name that users gave, of a technology or a niche, as a key that h5ad and zarr can hold.

    Names that can be keys are; of others, such as ``"10x/Visium"``, it is what can be of them, and a checksum.
    """
    if not _NO_KEY.fullmatch(name) and len(name.encode()) <= _MOST_BYTES:
        return name
    readable = re.sub(r"[^\w.+-]+", "_", name)[:20].strip("._") or "name"
    return f"{readable}~{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def key_in(keys: Collection[str], name: str) -> str | None:
    """Return the key under which ``keys`` hold what is of ``name``: the name itself, or :func:`as_key` of it."""
    return next((key for key in (name, as_key(name)) if key in keys), None)
