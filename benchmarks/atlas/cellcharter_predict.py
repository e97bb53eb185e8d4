"""CellCharter's own way to the next section: its mixture is fitted on the others, and predicts the one left out.

    export SCJEPA_DATA=... OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1
    PEERS/bin/python -m benchmarks.atlas.cellcharter_predict mPFC embryo DLPFC hypothalamus

Run by the Python that `benchmarks/peers/setup.sh` sets up; appends rows "CellCharter's predict" to
results/agreement.csv. 20 principal components of log-normalized counts, z-scored within sections, of the sections that
are not left out, in the place of its scVI, which is trained on all sections; then its three hops, its Gaussian mixture
and its `predict`. ``nmi_joint`` is agreement with its own clusters of all sections, as that of the atlas is with the
atlas' own.
"""

from __future__ import annotations

import sys
import time
import warnings

import cellcharter as cc
import numpy as np
from anndata import AnnData
from benchmarks.atlas.leave_out import N_NICHES, RESULTS, _scored, labels_of, load_set, log_normalized
from benchmarks.records import fill, keys
from sklearn.decomposition import PCA

METHOD, N_COMPS, N_HOPS = "CellCharter's predict", 20, 3


def z_scored(adata: AnnData) -> np.ndarray:
    """Return log-normalized counts, z-scored within sections."""
    values, sections = log_normalized(adata), adata.obs["section"].astype(str).to_numpy()
    for section in np.unique(sections):
        own = sections == section
        spread = values[own].std(axis=0)
        values[own] = (values[own] - values[own].mean(axis=0)) / np.where(spread > 0, spread, 1)
    return values


def clusters(fitted_on: AnnData, told: AnnData, n_niches: int) -> np.ndarray:
    """Fit CellCharter's mixture on some sections, and return what it predicts of others."""
    pca = PCA(N_COMPS, random_state=0).fit(z_scored(fitted_on))
    for adata in {id(fitted_on): fitted_on, id(told): told}.values():
        adata.obsm["X_pca"] = pca.transform(z_scored(adata)).astype(np.float32)
        cc.gr.aggregate_neighbors(adata, n_layers=N_HOPS, use_rep="X_pca", sample_key="section")
    mixture = cc.tl.Cluster(n_niches, random_state=0, trainer_params={"accelerator": "cpu", "logger": False})
    mixture.fit(fitted_on)
    return np.asarray(mixture.predict(told)).astype(str)


def main(name: str) -> None:
    """Append a row for each section that is left out."""
    adata = load_set(name)
    sections, labels, joint = adata.obs["section"].astype(str).to_numpy(), labels_of(adata), []

    def made(_: str, section: str, __: str) -> list[dict[str, object]]:
        if not joint:
            joint.append(clusters(adata, adata, N_NICHES[name]))
        own = sections == section
        start = time.process_time()
        found = clusters(adata[~own].copy(), adata[own].copy(), N_NICHES[name])
        row = _scored(found, joint[0][own], None if labels is None else labels[own])
        return [{**row, "seconds": time.process_time() - start}]

    fill(RESULTS / "agreement.csv", keys(set=[name], section=np.unique(sections), method=[METHOD]), made)


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    for each in sys.argv[1:]:
        main(each)
