"""Gene sets from files."""

from __future__ import annotations

import os
from pathlib import Path


def read_gmt(path: str | os.PathLike[str]) -> dict[str, tuple[str, ...]]:
    """Read gene sets from a GMT file: a line for each, its name, a description, and its genes, separated by tabs.

    Parameters
    ----------
    path
        The file, such as those of MSigDB.

    Returns
    -------
    dict
        Genes of each set by the set's name, in the order of the file; a gene that a line has twice is there once.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If a line has no gene, a name occurs twice, or there is no line.
    """
    sets: dict[str, tuple[str, ...]] = {}
    for number, line in enumerate(Path(path).read_text().splitlines(), start=1):
        if not line.strip():
            continue
        name, *rest = (part.strip() for part in line.split("\t"))
        genes = tuple(dict.fromkeys(gene for gene in rest[1:] if gene))
        if not genes:
            raise ValueError(
                f"Line {number} of {path} has no gene: a GMT line is a name, a description and genes, separated by "
                f"tabs; found {line[:60]!r}."
            )
        if name in sets:
            raise ValueError(f"{path} has the gene set {name!r} twice, the second time in line {number}.")
        sets[name] = genes
    if not sets:
        raise ValueError(f"{path} holds no gene set.")
    return sets
