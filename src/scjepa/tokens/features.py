"""What a feature is by its name: a mitochondrial or ribosomal gene, a control probe, an antibody, or any other gene.

The one place that knows how platforms name what is no gene, and which genes fill whole transcriptomes without telling
cells apart.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

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
