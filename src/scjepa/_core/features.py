"""What a feature is by its name: a mitochondrial or ribosomal gene, a control probe, an antibody, or any other gene.

The one place that knows how platforms name what is no gene, and which genes fill whole transcriptomes without telling
cells apart.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from scjepa._core.anndata import text_of
from scjepa._core.warn import warn

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

GENE, MITOCHONDRIAL, RIBOSOMAL, CONTROL, ANTIBODY = "gene", "mitochondrial", "ribosomal", "control probe", "antibody"
"""Kinds of features."""

TRANSCRIPTS = (GENE, MITOCHONDRIAL, RIBOSOMAL)
"""Kinds that count transcripts."""

_PATTERNS: dict[str, re.Pattern[str]] = {
    # Codes without a probe, probes without a target, spike-ins: of Xenium, MERSCOPE, CosMx, GeoMx, Visium, seqFISH.
    CONTROL: re.compile(
        r"blank([-_. ]?(code(word)?)?[-_. ]?\d+)?"
        r"|(negative|neg)([-_. ]?(control|ctrl|ctl))?([-_. ]?(probe|prb|codeword|code|add))?"
        r"([-_. ]?(wtx|cta))?[-_. ]?\d*"
        r"|negadd\d*|(unassigned|deprecated)[-_. ]?(codeword|probe|code)?[-_. ].*"
        r"|(system[-_. ]?control|false[-_. ]?code|no[-_. ]?target)[-_. ]?\d*"
        r"|(antisense|intergenic)[-_. ].*|genomic[-_. ]?control.*|ercc-\d+|custom[-_. ]?control.*",
        re.IGNORECASE,
    ),
    ANTIBODY: re.compile(
        r".*[-_. ]?totalseq[-_. ]?[abcd]?|(adt|hto|prot|protein|ab)[-_]\S+|hashtag[-_. ]?\w*"
        r"|.*[-_. ](ab|adt|antibody)"
        r"|((mouse|rat|human|hamster|m|r|h)[-_. ]?)?igg\d?[abc]?[-_. ]+(control|isotype|ctrl)\S*",
        re.IGNORECASE,
    ),
    # The prefix in any case, and the bare symbols by which NCBI calls the genes of mitochondria, in capitals alone.
    MITOCHONDRIAL: re.compile(r"[Mm][Tt][-.:_][A-Za-z]\S*|CYTB|ND[1-6]|ND4L|COX[123]|ATP[68]"),
    # Proteins of the ribosome of the cytosol and their pseudogenes, not its kinases (RPS6KA1); and ribosomal RNA.
    RIBOSOMAL: re.compile(
        r"rp[ls]\d+[axy]?\d?(l\d?)?(-?ps?\d+)?|rplp[0-2](-?ps?\d+)?|rpsa(-?ps?\d+)?|rn(4\.)?(5|18|28|45)s\S*"
        r"|rna(5-8|18|28|45)s\S*",
        re.IGNORECASE,
    ),
}
"""What each kind's names look like, whole; the first that matches counts."""

_OF_TYPES = {"antibody capture": ANTIBODY, "protein expression": ANTIBODY, "multiplexing capture": ANTIBODY}
"""Kinds by what 10x Genomics' files say in ``var["feature_types"]``, in lower case."""
_CONTROL_TYPE = re.compile(r"(negative|unassigned|deprecated|blank|genomic|intergenic).*", re.IGNORECASE)


def kinds_of(names: Sequence[str], feature_types: Sequence[str] | None = None) -> np.ndarray:
    """Return what each feature is, as far as names tell.

    Parameters
    ----------
    names
        Gene symbols; an Ensembl id tells nothing and counts as a gene.
    feature_types
        What the file says of each, such as ``adata.var["feature_types"]`` (``"Gene Expression"``,
        ``"Antibody Capture"``, ``"Negative Control Probe"``, ...); it goes before the name.

    Returns
    -------
    numpy.ndarray
        ``(n,)`` strings: :data:`GENE`, :data:`MITOCHONDRIAL`, :data:`RIBOSOMAL`, :data:`CONTROL` or :data:`ANTIBODY`.

    Raises
    ------
    ValueError
        If there are not as many types as names.
    """
    kinds = np.array([_kind_of(str(name)) for name in names], dtype=object)
    if feature_types is not None:
        if len(feature_types) != len(kinds):
            raise ValueError(f"feature_types has {len(feature_types)} entries for {len(kinds)} names.")
        for i, told in enumerate(map(str, feature_types)):
            if told.lower() in _OF_TYPES:
                kinds[i] = _OF_TYPES[told.lower()]
            elif _CONTROL_TYPE.fullmatch(told):
                kinds[i] = CONTROL
    return kinds


def _kind_of(name: str) -> str:
    return next((kind for kind, pattern in _PATTERNS.items() if pattern.fullmatch(name)), GENE)


# -- of a panel ----------------------------------------------------------------------------------------------------


TYPES = ("feature_types", "feature_type")
"""Columns of ``var`` in which readers of 10x and Xenium outputs say what a feature is."""

_GENE = "Gene Expression"

_WORDS = {CONTROL: "control probes", ANTIBODY: "antibodies"}


def types_of(var: pd.DataFrame) -> pd.Series | None:
    """Return what each feature is said to be, ``None`` where nothing says so."""
    return next((var[key] for key in TYPES if key in var), None)


def no_genes(names: Sequence[str], types: pd.Series | None = None) -> dict[str, np.ndarray]:
    """Return which features are no genes, ``(n_vars,)`` bool by what they are; nothing where all may be genes.

    Parameters
    ----------
    names
        ``var_names``.
    types
        What :func:`types_of` gave. Where no feature is said to be a gene, as in a panel of proteins, names alone count.
    """
    told_apart = types is not None and bool((types == _GENE).any())
    said = text_of(types) if types is not None and told_apart else np.full(len(names), None, dtype=object)
    kinds = kinds_of(names, list(said))
    found = {words: kinds == kind for kind, words in _WORDS.items()}
    rest = ~np.any(list(found.values()), axis=0)
    for other in sorted({name for name in said[rest] if name not in (None, _GENE)}):
        found[f"{other!r}"] = rest & (said == other)
    return {what: which for what, which in found.items() if which.any()}


def about_features(names: Sequence[str], types: pd.Series | None = None) -> str | None:
    """Return the sentence about features that are no genes, and the call that leaves them out; ``None``: all are."""
    found = no_genes(names, types)
    if not found:
        return None
    parts = []
    for what, which in found.items():
        some = [str(names[i]) for i in np.flatnonzero(which)[:3]]
        parts.append(f"{which.sum():,} {what} ({', '.join(map(repr, some))}{', ...' if which.sum() > 3 else ''})")
    return (
        f"Among the {len(names):,} features are {' and '.join(parts)}, which count as genes. To leave them out: "
        "adata = scjepa.datasets.only_genes(adata)."
    )


def warn_of_no_genes(adata: AnnData) -> None:
    """Warn of features of ``adata`` that are no genes."""
    sentence = about_features(adata.var_names, types_of(adata.var))
    if sentence:
        warn(sentence)


def only_genes(adata: AnnData) -> AnnData:
    """Return the cells with the features that are genes: without control probes, spike-ins and antibodies.

    Probes that match nothing (``NegPrb``, ``NegControlProbe_``, ``BLANK_``, ``Blank-``, ``FalseCode``, ...) are there
    to measure noise, and counts of antibodies are far above those of genes: as tokens either would take the place of
    genes.

    Parameters
    ----------
    adata
        Cells × features; it is not changed.

    Returns
    -------
    AnnData
        A copy of those features that ``var["feature_types"]`` (or ``"feature_type"``), where it is there, calls
        ``"Gene Expression"`` and whose names are not those of control probes, spike-ins or antibodies.

    Raises
    ------
    ValueError
        If no feature is left.

    Examples
    --------
    >>> adata = scjepa.datasets.only_genes(adata)
    """
    others = no_genes(adata.var_names, types_of(adata.var)).values()
    kept = ~np.any([np.zeros(adata.n_vars, dtype=bool), *others], axis=0)
    if not kept.any():
        raise ValueError(f"None of the {adata.n_vars:,} features is a gene, such as {str(adata.var_names[0])!r}.")
    return adata[:, kept].copy()
