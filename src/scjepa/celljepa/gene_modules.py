"""Gene modules in any form, in: named lists of the vocabulary's genes, out."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self, TypeAlias

import numpy as np
import pandas as pd
from anndata import AnnData

from scjepa._core.anndata import flags_of, labels_of, means_none, missing_key
from scjepa._core.warn import warn
from scjepa.celljepa.config import CellJEPAConfig
from scjepa.datasets import read_gmt
from scjepa.models.store import Facts
from scjepa.tokens.vocabulary import Vocabulary

FEWEST_GENES = 3
"""Known genes that a module needs to be one."""

ModuleSource: TypeAlias = "str | os.PathLike[str] | Sequence[str] | Mapping[str, Sequence[str]]"


@dataclass(frozen=True)
class GeneModules:
    """Modules of the vocabulary's genes; one gene may be of several.

    Attributes
    ----------
    names
        Names of the modules.
    genes
        Vocabulary ids of each module's genes, sorted.
    """

    names: tuple[str, ...]
    genes: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, source: ModuleSource, adata: AnnData, vocabulary: Vocabulary) -> Self:
        """Build them from a GMT file, columns of ``adata.var`` or named lists.

        Raises
        ------
        KeyError
            If a column is not in ``adata.var``.
        ValueError
            If fewer than two modules have enough genes that the vocabulary knows.
        """
        sets = _named_sets(source, adata)
        found = {name: _known(vocabulary, genes) for name, genes in sets.items()}
        kept = {name: genes for name, genes in found.items() if len(genes) >= FEWEST_GENES}
        if len(kept) < 2:
            examples = [gene for genes in sets.values() for gene in genes][:3]
            raise ValueError(
                f"{len(kept)} of {len(sets)} modules have {FEWEST_GENES} genes or more that the data have; two are "
                f"needed. Genes of the modules: {', '.join(map(repr, examples))}, ...; of the data: "
                f"{', '.join(map(repr, vocabulary.names[:3]))}, ..."
            )
        if len(kept) < len(sets):
            lost = [name for name in sets if name not in kept]
            warn(
                f"{len(lost)} of {len(sets)} modules have fewer than {FEWEST_GENES} genes that the data have and are "
                f"left out, {lost[0]!r} among them."
            )
        return cls(tuple(kept), tuple(kept.values()))

    def facts(self) -> dict[str, Any]:
        """Return what JSON can hold of it: all."""
        return {"names": list(self.names), "genes": [list(genes) for genes in self.genes]}

    @classmethod
    def from_saved(cls, facts: Facts) -> Self:
        """Build it from what :meth:`facts` gave."""
        return cls(tuple(facts["names"]), tuple(tuple(genes) for genes in facts["genes"]))


def _named_sets(source: ModuleSource, adata: AnnData) -> Mapping[str, Sequence[str]]:
    if isinstance(source, Mapping):
        return source
    if isinstance(source, os.PathLike) or (isinstance(source, str) and source.endswith(".gmt")):
        return read_gmt(source)
    keys = [source] if isinstance(source, str) else list(source)
    sets: dict[str, Sequence[str]] = {}
    for key in keys:
        if key not in adata.var:
            then = "Name columns that hold modules (scjepa.tl.gene_modules writes one), or pass a .gmt file or a dict."
            raise missing_key("var", key, adata.var.columns, then)
        sets.update(_of_column(adata, key, several=len(keys) > 1))
    return sets


def _of_column(adata: AnnData, key: str, several: bool) -> dict[str, Sequence[str]]:
    """Return the sets of a column of ``var``: of a boolean one the genes that are in, of others one set a value."""
    column = adata.var[key]
    is_category = isinstance(column.dtype, pd.CategoricalDtype)
    if pd.api.types.is_bool_dtype(column.dtype) and not is_category:  # of nullable ones values may be missing
        return {key: list(adata.var_names[flags_of(column)])}
    names = pd.Series(labels_of(column), index=column.index)
    groups = names.dropna()
    doubtful = sorted({name for name in groups.unique() if means_none(name)})
    if doubtful:
        warn(
            f"{(groups == doubtful[0]).sum():,} genes have {doubtful[0]!r} in adata.var[{key!r}], which counts as a "
            f"module. If it means none: adata.var[{key!r}] = adata.var[{key!r}].where(adata.var[{key!r}] != "
            f"{doubtful[0]!r})."
        )
    before = f"{key}:" if several else ""
    return {f"{before}{name}": list(genes) for name, genes in sorted(groups.groupby(groups).groups.items())}


def _known(vocabulary: Vocabulary, genes: Sequence[str]) -> tuple[int, ...]:
    ids = np.unique(vocabulary.ids(list(genes)))
    return tuple(int(i) for i in ids[ids >= 0])


def modules_for(
    config: CellJEPAConfig, modules: ModuleSource | None, adata: AnnData, vocabulary: Vocabulary
) -> GeneModules | None:
    """Return the modules where they are tokens; raise where they are missing, or given for nothing."""
    wanted = config.tokens.unit == "module"
    if wanted == (modules is not None):
        return GeneModules.of(modules, adata, vocabulary) if modules is not None else None
    if wanted:
        raise ValueError(
            "Modules are to be tokens, and none were given: modules='hallmark.gmt', or a column of adata.var, such as "
            "scjepa.tl.gene_modules(adata) writes (modules='module')."
        )
    raise ValueError("modules were given, but genes are tokens here: take preset='modules'.")
