"""What an atlas knows of its niches beside where they lie: colors, markers, composition, levels, and it in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from scjepa._core import keys as _keys
from scjepa._core.anndata import record_of
from scjepa._core.palette import palette

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

    from scjepa.atlas._calibration import Calibration
    from scjepa.tl import NicheReadout

FACTS = (
    *("names", "error", "sizes", "sections", "neighbors_key", "degree", "key"),
    *("colors", "markers", "composition"),
)
"""What an atlas is, beside arrays."""

_N_MARKERS = 20
"""Genes of each niche that are kept."""


def of_niches(
    adata: AnnData, niche_key: str, niches: pd.Categorical, names: Sequence[str], cell_type_key: str
) -> dict[str, Any]:
    """Return colors, marker genes and composition of niches, under their new names, in values that JSON can hold."""
    new = dict(zip(niches.categories, names, strict=True))
    composition = None
    if cell_type_key in adata.obs:
        from scjepa.tl import niche_composition

        shares = niche_composition(adata, niche_key, by=cell_type_key).shares
        composition = {
            "labels": [str(label) for label in shares.columns],
            "shares": shares.loc[list(niches.categories)].to_numpy().tolist(),
        }
    return {
        "colors": _colors(adata, niche_key, niches),
        "markers": _markers(adata, niche_key, new),
        "composition": composition,
    }


def _colors(adata: AnnData, niche_key: str, niches: pd.Categorical) -> list[str]:
    """Return the colors that are there, where there is one for each category, else those of the palette."""
    there = list(map(str, adata.uns.get(f"{niche_key}_colors", [])))
    column = adata.obs[niche_key]
    categories = list(map(str, column.cat.categories)) if hasattr(column, "cat") else []
    if len(there) < len(categories) or not set(niches.categories) <= set(categories):
        return palette(len(niches.categories))
    return [there[categories.index(name)] for name in niches.categories]


def _markers(adata: AnnData, niche_key: str, new: Mapping[str, str]) -> dict[str, list[str]]:
    """Return the best genes of each niche where they were ranked for these niches."""
    key = _keys.NICHE_MARKERS
    if key not in adata.uns or record_of(adata, key).get("niche_key") != niche_key:
        return {}
    ranked = adata.uns[key]["names"]
    found = {old: _keys.key_in(ranked.dtype.names, old) for old in new}
    return {
        new[old]: [str(gene) for gene in ranked[column][:_N_MARKERS]]
        for old, column in found.items()
        if column is not None
    }


def as_frame(composition: Mapping[str, Any] | None, names: Sequence[str]) -> pd.DataFrame | None:
    """Return a kept composition as a data frame, niches in rows."""
    if composition is None:
        return None
    import pandas as pd

    return pd.DataFrame(composition["shares"], index=pd.Index(names, name="niche"), columns=composition["labels"])


def level(centers: np.ndarray, sizes: np.ndarray, names: Sequence[str], number: int) -> dict[str, str]:
    """Return the coarse niche of each niche: Ward's joining of centers, named by the largest part."""
    if len(names) == 1:
        return {names[0]: names[0]}
    from scipy.cluster.hierarchy import cut_tree, linkage

    part = cut_tree(linkage(centers.astype(np.float64), "ward"), n_clusters=number)[:, 0]
    order = np.lexsort((np.arange(len(names)), -sizes))  # largest first
    largest = {code: int(order[part[order] == code][0]) for code in set(part.tolist())}
    return {name: names[largest[code]] for name, code in zip(names, part.tolist(), strict=True)}


def in_words(facts: Mapping[str, Any], readout: NicheReadout, calibration: Calibration, n_kept: int) -> str:
    """Return what an atlas is."""
    alarms = calibration.alarms(facts["error"])
    n_sections = max(len(facts["sections"]), 1)
    return (
        f"{len(facts['names'])} niches of {sum(facts['sizes']):,} cells in {n_sections} section"
        f"{'' if n_sections == 1 else 's'}, {n_kept:,} of them kept; read-out: {readout.describe()}; unknown: a share "
        f"of {facts['error']:g} of cells held out by {calibration.held_out} ({alarms.min():.2f} to {alarms.max():.2f} "
        f"by {calibration.held_out})"
    )


def card(facts: Mapping[str, Any], words: str) -> str:
    """Return the text that lies beside a saved atlas, for who finds the folder."""
    lines = ["# Niche atlas", "", f"{words}.", "", "| niche | cells | markers |", "| --- | --- | --- |"]
    for name, size in zip(facts["names"], facts["sizes"], strict=True):
        genes = ", ".join(facts["markers"].get(name, [])[:5])
        lines.append(f"| {name.replace('|', '/')} | {size:,} | {genes} |")
    call = 'scjepa.NicheAtlas.load("folder").predict(adata)'
    return "\n".join([*lines, "", f"`{call}`, or `scjepa predict new.h5ad --atlas folder --out predicted.h5ad`.", ""])
