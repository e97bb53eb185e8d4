"""Nicheformer: cell embeddings of a local checkpoint, as its notebook ``get_embeddings`` makes them.

The package is not on PyPI and the checkpoint has to be downloaded, so this adapter was tried with a stand-in of the
package alone, never with its weights.
"""

from __future__ import annotations

import numpy as np
from scipy import sparse

PACKAGES = ("nicheformer", "torch")

_REQUIRED = ("checkpoint", "reference", "technology_mean", "tokens")
METHODS = {
    "nicheformer": {
        "description": "Nicheformer's cell embeddings from a local checkpoint; with the same graph, their neighborhood "
        "means",
        "needs": "nicheformer (from its repository), and options 'checkpoint', 'reference', 'technology_mean', "
        "'tokens'; embeddings made elsewhere: the method 'precomputed'",
        "settings": ("tutorial", "same graph"),
        "options": (*_REQUIRED, "layer", "batch_size"),
        "required": _REQUIRED,
        "seeded": False,
    },
}

MAX_LENGTH = 1500
TOKENS = ("modality", "specie", "assay")


def run(
    adata, *, seed, settings, checkpoint, reference, technology_mean, tokens, n_niches=None, layer=-1, batch_size=32
):
    """Embed cells; ``tokens`` are the codes of modality, species and assay, ``reference`` an h5ad with its genes.

    With the same graph as the others, embeddings are averaged over each cell and its neighbors.
    """
    import anndata
    import torch
    from nicheformer.data import NicheformerDataset
    from nicheformer.models import Nicheformer
    from torch.utils.data import DataLoader

    torch.manual_seed(seed)
    missing = [name for name in TOKENS if name not in tokens]
    if missing:
        raise ValueError(f"tokens has no {missing[0]!r}; give the codes of {', '.join(TOKENS)}.")
    genes = anndata.read_h5ad(reference, backed="r").var_names
    shared = adata.var_names.intersection(genes)
    if not len(shared):
        raise ValueError(
            f"No gene of the data is in {reference} (there: {list(genes[:3])}; here: {list(adata.var_names[:3])})."
        )
    columns = genes.get_indexer(shared)
    # Its genes in its order; those that were not measured have no counts.
    selector = sparse.csr_matrix((np.ones(len(shared)), (np.arange(len(shared)), columns)), (len(shared), len(genes)))
    aligned = anndata.AnnData(sparse.csr_matrix(adata[:, shared].X @ selector, dtype=np.float32), obs=adata.obs.copy())
    aligned.var_names = genes
    for name in TOKENS:
        aligned.obs[name] = int(tokens[name])
    aligned.obs["nicheformer_split"] = "train"
    dataset = NicheformerDataset(
        adata=aligned,
        technology_mean=np.load(technology_mean),
        split="train",
        max_seq_len=MAX_LENGTH,
        metadata_fields={"obs": list(TOKENS)},
    )
    model = Nicheformer.load_from_checkpoint(checkpoint_path=checkpoint, strict=False)
    model.eval()
    parts = []
    with torch.no_grad():
        for batch in DataLoader(dataset, batch_size=batch_size, shuffle=False):
            moved = {key: value.to(model.device) for key, value in batch.items()}
            parts.append(model.get_embeddings(batch=moved, layer=layer).cpu().numpy())
    embedding = np.concatenate(parts)
    if settings == "same graph":
        graph = (adata.obsp["spatial_connectivities"] > 0).astype(np.float32)
        graph = graph + sparse.identity(adata.n_obs, format="csr")
        embedding = np.asarray(graph @ embedding) / np.asarray(graph.sum(axis=1))
    info = {"genes_shared": len(shared), "layer": layer, "scale": "cell" if settings == "tutorial" else "neighborhood"}
    return {"embedding": embedding, "info": info}
