"""Simulated whole transcriptomes: spots or cells whose mitochondrial, ribosomal and other ubiquitous genes dominate."""

from __future__ import annotations

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from scjepa._core.squidpy import spatial_graph

UBIQUITOUS = {"MT-ND": (13, 0.25), "RPL": (80, 0.13), "HK": (60, 0.15)}
"""Ubiquitous genes by the beginning of their names: how many, and their share of all counts."""


def transcriptome(
    n_cells: int = 2500,
    n_genes: int = 15000,
    *,
    depth: float = 4000.0,
    fold: float = 1.2,
    n_types: int = 0,
    named: bool = True,
    seed: int = 0,
) -> AnnData:
    """Simulate six domains, curved bands, in which a tenth of the genes is higher; nothing else tells them apart.

    Parameters
    ----------
    n_cells, n_genes
        Spots (cells) and genes.
    depth
        Counts of a spot, about; they vary by a factor of 1.5.
    fold
        Mean log fold change of a gene in its one or two domains.
    n_types
        Cell types that mix within domains, in cells at random places. 0: spots on a hexagonal grid, of no types.
    named
        Whether names tell mitochondrial and ribosomal genes.
    seed
        Fixes everything.
    """
    rng = np.random.default_rng(seed)
    place = _grid(n_cells) if n_types == 0 else rng.uniform(0, np.sqrt(n_cells) * 10, (n_cells, 2))
    length = np.ptp(place, axis=0).max()
    band = place[:, 1] / length + 0.12 * np.sin(2.2 * np.pi * place[:, 0] / length + 0.5)
    domain = (np.argsort(np.argsort(band)) * 6) // n_cells

    kinds = np.repeat([*UBIQUITOUS, "GENE"], [*(n for n, _ in UBIQUITOUS.values()), 0])
    kinds = np.concatenate([kinds, np.full(n_genes - len(kinds), "GENE")])
    share = {kind: of for kind, (_, of) in UBIQUITOUS.items()}
    share["GENE"] = 1 - sum(share.values())
    base = np.exp(rng.normal(0, np.where(kinds == "GENE", 1.3, 0.4)))
    for kind, of in share.items():
        base[kinds == kind] *= of / base[kinds == kind].sum()
    effect = _folds(rng, 6, kinds == "GENE", round(0.1 * n_genes), fold)
    types = np.zeros(n_cells, dtype=int)
    by_type = np.zeros((max(n_types, 1), n_genes))
    if n_types:
        by_type = _folds(rng, n_types, kinds == "GENE", round(0.15 * n_genes), 1.5)
        mix = rng.dirichlet(np.ones(n_types), 6)
        types = np.array([rng.choice(n_types, p=mix[of]) for of in domain])

    total = depth * np.exp(rng.normal(-0.08, 0.4, n_cells))
    quality = np.exp(rng.normal(0, 0.25, n_cells))  # some spots have more of their counts in mitochondria
    blocks = []
    for start in range(0, n_cells, 256):
        rows = slice(start, start + 256)
        mean = base * np.exp(effect[domain[rows]] + by_type[types[rows]])
        mean[:, kinds == "MT-ND"] *= quality[rows, None]
        mean *= total[rows, None] / mean.sum(axis=1, keepdims=True)
        blocks.append(sparse.csr_matrix(rng.poisson(mean * rng.gamma(10, 0.1, mean.shape)).astype(np.int32)))
    X = sparse.vstack(blocks, format="csr")

    number = pd.Series(kinds).groupby(kinds).cumcount() + 1
    names = np.array([f"{kind}{i}" for kind, i in zip(kinds, number, strict=True)])
    names = names if named else np.array([f"ENSG{i:011d}" for i in range(n_genes)])
    obs = pd.DataFrame(
        {"region": pd.Categorical([f"D{of}" for of in domain]), "section": pd.Categorical(["s1"] * n_cells)},
        index=[f"cell{i}" for i in range(n_cells)],
    )
    order = rng.permutation(np.flatnonzero(np.asarray(X.sum(axis=0)).ravel() > 0))
    adata = AnnData(X[:, order], obs=obs, var=pd.DataFrame(index=names[order]), obsm={"spatial": place})
    spatial_graph(adata, n_neighs=10 if n_types else 6)
    return adata


def _grid(n: int) -> np.ndarray:
    """Return the first ``n`` places of a hexagonal grid, 100 µm apart, about as wide as high."""
    side = int(np.sqrt(n * 2 / np.sqrt(3)))
    y, x = np.divmod(np.arange(n), int(np.ceil(n / side)))
    return 100.0 * np.stack([x + 0.5 * (y % 2), y * np.sqrt(3) / 2], axis=1)


def _folds(rng: np.random.Generator, n_groups: int, may: np.ndarray, n: int, size: float) -> np.ndarray:
    """Return log fold changes, groups × genes: ``n`` of the genes that ``may`` are up in one group or two."""
    effect = np.zeros((n_groups, len(may)))
    for gene in rng.choice(np.flatnonzero(may), n, replace=False):
        effect[rng.choice(n_groups, rng.integers(1, 3), replace=False), gene] = size * rng.uniform(0.5, 1.5)
    return effect
