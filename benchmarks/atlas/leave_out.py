"""What an atlas of some sections gives of another: its niches, and what it calls unknown.

    export SCJEPA_DATA=... OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1
    python -m benchmarks.atlas.leave_out agreement mPFC DLPFC embryo hypothalamus
    python -m benchmarks.atlas.leave_out unknown mPFC DLPFC
    python -m benchmarks.atlas.leave_out genes mPFC
    python -m benchmarks.atlas.leave_out tissue mPFC liver DLPFC
    python -m benchmarks.atlas.leave_out table          # results/leave_out.md from the csv files

``agreement``: each section in turn is left out of read-out, niches and atlas, then predicted. NMI and ARI of the niches
predicted with the labels, and with the niches of all sections found together (joint); beside the same niches carried by
a vote of the 15 nearest cells in principal components, and what joint niches reach themselves.
Of embryo and DLPFC ``unknown`` and ``alarms`` are by the distance alone, as the atlas knew it then.

``unknown``: a region is left out of the sections that the atlas is made of as well (its cells and their edges taken
out), and is there in the section predicted: the share of its cells called unknown, and that of all others (false
alarms), at error=0.1; region "none": nothing left out. The rule was chosen on mPFC and on 151673 of DLPFC. Of DLPFC
151674 and 151673 by former rules: ``unknown_distance.csv``, by the distance alone, before crowding took part;
``unknown_coarse.csv``, by distance and coarse crowding, before fine crowding did.

``genes``: a share of the genes is taken out of the section predicted, at random. A share of 0.5 is refused, for the
others carry less than 70 % of the read-out; ``genes_before.csv`` has rows of when atlases refused below 50 %.

``tissue``: an atlas of all sections is asked for another tissue, on the genes that both have (of more than 1,000, those
of largest variance over mean in the atlas). No two sets here are of one panel and of two organs: of mPFC it is another
area of cortex, of which the panel of mPFC has 157 genes; of liver and DLPFC another organ, genome-wide, by the same
technology. ``warned``: ``predict`` says that the section may not compare.

``unknown_before.csv`` has the rows of a design that lost: distances in principal components of cells, averaged over the
two rings, in place of principal components of the averages.

Number of niches: as many as labels; embryo and hypothalamus, whose labels are cell types and no regions: 12, compared
with joint niches alone. DLPFC: the 1,000 genes of largest variance over mean among those of all four sections (counts,
without labels), for speed. The rules of the atlas (votes, distance) were chosen on mPFC; the others took no part.
Rows that are there are not made again.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
from anndata import AnnData
from benchmarks.records import append, commit, done
from scipy.sparse import csr_matrix, diags, identity
from sklearn.decomposition import PCA
from sklearn.neighbors import KNeighborsClassifier

import scjepa
from scjepa._core.squidpy import spatial_graph
from scjepa.metrics import ari, nmi

RESULTS = Path(__file__).parent / "results"
N_NEIGHBORS, N_COMPS = 15, 50
N_GENES = 1_000
N_NICHES = {"mPFC": 4, "DLPFC": 7, "embryo": 12, "hypothalamus": 12, "liver": 5}
SPOTS = ("DLPFC", "liver")
OTHER_TISSUE = {
    "mPFC": ("starmap_visual_cortex", 10),
    "liver": ("st_mouse_olfactory_bulb", 6),
    "DLPFC": ("visium_breast_aligned_to_xenium", 6),
}
"""Another tissue for the atlas of a set, and its neighbors."""
CHOSEN_ON = "151673"
"""Of DLPFC."""
UNLABELLED = ("unlabelled", "nan")


def load_set(name: str) -> AnnData:
    """Return a set with sections, ``region`` where there are labels, and the spatial graph."""
    if name == "DLPFC":
        parts = [scjepa.datasets.load(file) for file in ("visium_dlpfc_br8100_3sections", "visium_dlpfc_151674")]
        for part in parts:
            part.obs["section"] = part.obs["section"].astype(str)
        adata = ad.concat(parts, join="inner")
        adata = adata[:, telling(adata)].copy()
    else:
        files = {
            "mPFC": "starmap_mpfc_3sections",
            "embryo": "seqfish_mouse_embryo2",
            "hypothalamus": "merfish_hypothalamus_4sections_unlabelled",
            "liver": "st_mouse_liver_2sections_unlabelled",
        }
        adata = scjepa.datasets.load(files[name])
    adata.obs_names_make_unique()
    adata.obs["section"] = adata.obs["section"].astype(str).astype("category")
    adata.obsm["spatial"] = np.asarray(adata.obsm["spatial"])[:, :2]
    spatial_graph(adata, n_neighs=6 if name in SPOTS else 10, library_key="section")
    return adata


def telling(adata: AnnData) -> np.ndarray:
    """Return the genes of largest variance over mean, at most ``N_GENES``, rising."""
    mean = np.asarray(adata.X.mean(axis=0)).ravel()
    square = np.asarray(adata.X.astype(float).power(2).mean(axis=0)).ravel()
    return np.sort(np.argsort(-(square - mean**2) / np.maximum(mean, 1e-3), kind="stable")[:N_GENES])


def labels_of(adata: AnnData) -> np.ndarray | None:
    """Return regions as text, where the set has any."""
    if "region" not in adata.obs or set(adata.obs["region"].astype(str)) <= set(UNLABELLED):
        return None
    return adata.obs["region"].astype(str).to_numpy()


def log_normalized(adata: AnnData) -> np.ndarray:
    """Return log1p of counts per 10,000."""
    counts = np.asarray(adata.X.todense(), dtype=np.float32)
    return np.log1p(counts * (1e4 / np.maximum(counts.sum(axis=1, keepdims=True), 1)))


def of_cells(adata: AnnData) -> np.ndarray:
    """Return log-normalized expression."""
    return log_normalized(adata)


def of_neighborhoods(adata: AnnData) -> np.ndarray:
    """Return log-normalized expression, z-scored within sections, as means over cells and their neighbors."""
    values, sections = log_normalized(adata), adata.obs["section"].astype(str).to_numpy()
    for section in np.unique(sections):
        own = sections == section
        spread = values[own].std(axis=0)
        values[own] = (values[own] - values[own].mean(axis=0)) / np.where(spread > 0, spread, 1)
    graph = csr_matrix(adata.obsp["spatial_connectivities"] != 0, dtype=np.float32)
    graph = graph + identity(adata.n_obs, dtype=np.float32, format="csr")
    return diags(1 / np.asarray(graph.sum(axis=1)).ravel()) @ graph @ values


CARRIED: dict[str, Callable[[AnnData], np.ndarray]] = {
    "nearest in PCA": of_cells,
    "nearest in PCA of z-scored neighborhoods": of_neighborhoods,
}


def carried(rest: AnnData, new: AnnData, values_of: Callable[[AnnData], np.ndarray]) -> np.ndarray:
    """Return the niches of ``rest`` carried to ``new`` by a vote in principal components of ``rest``."""
    pca = PCA(N_COMPS, random_state=0).fit(values_of(rest))
    vote = KNeighborsClassifier(N_NEIGHBORS).fit(pca.transform(values_of(rest)), rest.obs["niche"].astype(str))
    return vote.predict(pca.transform(values_of(new)))


def voted(adata: AnnData, names: list[str]) -> np.ndarray:
    """Return the first niche of each cell, known or not."""
    return np.array(names, dtype=object)[adata.obsm["niche_membership"].argmax(axis=1)]


def atlas_of(adata: AnnData, n_niches: int) -> scjepa.NicheAtlas:
    """Find niches and make their atlas."""
    scjepa.tl.find_niches(adata, n_niches=n_niches)
    return scjepa.NicheAtlas.fit(adata)


# -- studies ----------------------------------------------------------------------------------------------------------


def agreement(name: str, path: Path) -> None:
    """Leave each section out."""
    adata = load_set(name)
    sections, labels = adata.obs["section"].astype(str).to_numpy(), labels_of(adata)
    joint = None
    for section in np.unique(sections):
        if done(path, {"set": name, "section": section, "method": "atlas"}):
            continue
        if joint is None:
            together = adata.copy()
            scjepa.tl.find_niches(together, n_niches=N_NICHES[name])
            joint = together.obs["niche"].astype(str).to_numpy()
        own = sections == section
        rest, new = adata[~own].copy(), adata[own].copy()
        atlas = atlas_of(rest, N_NICHES[name])
        start = time.process_time()
        atlas.predict(new)
        seconds = time.process_time() - start
        found = {"atlas": voted(new, atlas.names)}
        found |= {method: carried(rest, new, values_of) for method, values_of in CARRIED.items()}
        found["joint niches"] = joint[own]
        rows = [_scored(niches, joint[own], None if labels is None else labels[own]) for niches in found.values()]
        table = pd.DataFrame(rows).assign(set=name, section=section, method=list(found), commit=commit())
        alarms = atlas.calibration.alarms(atlas.error)
        is_atlas = table["method"] == "atlas"
        told = {
            "unknown": (new.obs["niche"] == "unknown").mean(),
            "alarms_least": alarms.min(),
            "alarms_most": alarms.max(),
            "likeness": float(new.uns["scjepa"]["niche"]["likeness"][0]),
            "seconds": seconds,
        }
        for column, value in told.items():
            table[column] = np.where(is_atlas, value, np.nan)
        first = ["set", "section", "method"]
        append(path, table[[*first, *(column for column in table if column not in first)]])
        print(table.drop(columns="commit").round(3).to_string(), flush=True)


def _scored(niches: np.ndarray, joint: np.ndarray, labels: np.ndarray | None) -> dict[str, float]:
    found = {"nmi_joint": nmi(joint, niches), "ari_joint": ari(joint, niches)}
    if labels is not None:
        known = ~np.isin(labels, UNLABELLED)
        found |= {"nmi": nmi(labels[known], niches[known]), "ari": ari(labels[known], niches[known])}
    return found


def unknown(name: str, path: Path) -> None:
    """Leave each region out of all sections but the one that is predicted."""
    adata = load_set(name)
    sections, labels = adata.obs["section"].astype(str).to_numpy(), labels_of(adata)
    for region in [None, *sorted(set(labels) - set(UNLABELLED))]:
        for section in np.unique(sections):
            key = {"set": name, "section": section, "region": region or "none"}
            if done(path, key):
                continue
            own = np.array([section in one for one in sections])
            rest, new = adata[~own & (labels != region)].copy(), adata[own].copy()
            atlas = atlas_of(rest, N_NICHES[name] - (region is not None))
            atlas.predict(new)
            is_unknown, is_left = (new.obs["niche"] == "unknown").to_numpy(), labels[own] == region
            row = {
                **key,
                "n_cells": int(is_left.sum()),
                "found": is_unknown[is_left].mean() if is_left.any() else np.nan,
                "false_alarms": is_unknown[~is_left].mean(),
                "p_value_in": new.obs["niche_p_value"][is_left].median(),
                "p_value_out": new.obs["niche_p_value"][~is_left].median(),
                "commit": commit(),
            }
            append(path, pd.DataFrame([row]))
            print(row, flush=True)


def genes(name: str, path: Path) -> None:
    """Take genes out of each section in turn."""
    adata = load_set(name)
    sections, labels = adata.obs["section"].astype(str).to_numpy(), labels_of(adata)
    rng = np.random.default_rng(0)
    for section in np.unique(sections):
        own = sections == section
        atlas = None
        for share in (0.0, 0.1, 0.25, 0.5):
            key = {"set": name, "section": section, "share_missing": share}
            kept = np.sort(rng.choice(adata.n_vars, round((1 - share) * adata.n_vars), replace=False))
            if done(path, key):
                continue
            atlas = atlas_of(adata[~own].copy(), N_NICHES[name]) if atlas is None else atlas
            new, whole = adata[own][:, kept].copy(), adata[own].copy()
            try:
                atlas.predict(new)
                atlas.predict(whole)
            except ValueError as error:
                print(key, error, flush=True)
                continue
            one, other = voted(new, atlas.names), voted(whole, atlas.names)
            row = {
                **key,
                "coverage": new.uns["scjepa"]["niche"]["coverage"],
                "same_niche": (one == other).mean(),
                "ari_whole": ari(other, one),
                "nmi": nmi(labels[own], one),
                "ari": ari(labels[own], one),
                "unknown": (new.obs["niche"] == "unknown").mean(),
                "commit": commit(),
            }
            append(path, pd.DataFrame([row]))
            print(row, flush=True)


def tissue(name: str, path: Path) -> None:
    """Ask an atlas for another tissue."""
    file, n_neighs = OTHER_TISSUE[name]
    if done(path, {"set": name, "other": file}):
        return
    adata, new = load_set(name), scjepa.datasets.load(file)
    new.obs_names_make_unique()
    new.obs["section"] = new.obs["section"].astype(str).astype("category")
    new.obsm["spatial"] = np.asarray(new.obsm["spatial"])[:, :2]
    spatial_graph(new, n_neighs=n_neighs, library_key="section")
    adata = adata[:, adata.var_names.isin(new.var_names)]
    adata = adata[:, telling(adata)].copy()
    new = new[:, adata.var_names].copy()
    atlas = atlas_of(adata, N_NICHES[name])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        atlas.predict(new)
    told = new.uns["scjepa"]["niche"]
    rows = pd.DataFrame({"section": told["sections"], "unknown": told["unknown"], "likeness": told["likeness"]})
    rows["warned"] = [any(repr(one) in str(each.message) for each in caught) for one in told["sections"]]
    rows["likeness_held_out"], rows["alarms"] = atlas.calibration.cosines.min(), atlas.calibration.alarms(0.1).max()
    about = {"set": name, "other": file, "n_cells": new.n_obs, "n_genes": new.n_vars, "commit": commit()}
    append(path, rows.assign(**about))
    print(rows.round(3).to_string(), about, flush=True)


STUDIES = {"agreement": agreement, "unknown": unknown, "genes": genes, "tissue": tissue}


def table() -> None:
    """Write the tables: means over sections."""
    parts = ["# Leave-one-out of niche atlases", "", "Made by `python -m benchmarks.atlas.leave_out table`.", ""]
    path = RESULTS / "agreement.csv"
    if path.is_file():
        found = pd.read_csv(path)
        columns = ["nmi", "ari", "nmi_joint", "ari_joint", "unknown"]
        means = found.groupby(["set", "method"], sort=False)[columns].mean()
        parts += ["## Niches of a section that the atlas did not see (means over sections)", "", _markdown(means), ""]
        parts += ["`unknown` of embryo and DLPFC is by the distance alone; of the others by the rule as it is.", ""]
    path = RESULTS / "unknown.csv"
    if path.is_file():
        found = pd.read_csv(path, keep_default_na=False, na_values=[""])
        found["set"] += np.where(found["section"] == CHOSEN_ON, f" {CHOSEN_ON}", "")
        means = found.groupby(["set", "region"], sort=False)[["found", "false_alarms"]].mean()
        parts += ["## A region left out: share called unknown, error 0.1", "", _markdown(means), ""]
    path = RESULTS / "genes.csv"
    if path.is_file():
        columns = ["coverage", "same_niche", "ari_whole", "nmi", "ari", "unknown"]
        means = pd.read_csv(path).groupby(["set", "share_missing"])[columns].mean()
        parts += ["## Genes missing in the new section", "", _markdown(means), ""]
    path = RESULTS / "tissue.csv"
    if path.is_file():
        found = pd.read_csv(path).astype({"warned": float})
        columns = ["n_genes", "unknown", "alarms", "likeness", "likeness_held_out", "warned"]
        parts += ["## Another tissue (means over its sections)", ""]
        parts += [_markdown(found.groupby(["set", "other"], sort=False)[columns].mean()), ""]
    (RESULTS / "leave_out.md").write_text("\n".join(parts))


def _markdown(means: pd.DataFrame) -> str:
    frame = means.round(2).reset_index().astype(object).where(lambda one: one.notna(), "")
    rows = [list(frame.columns), ["---"] * frame.shape[1], *frame.to_numpy().tolist()]
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", choices=[*STUDIES, "table"])
    parser.add_argument("sets", nargs="*", choices=[*N_NICHES, []])
    options = parser.parse_args()
    warnings.filterwarnings("ignore", category=UserWarning)
    for name in options.sets:
        STUDIES[options.study](name, RESULTS / f"{options.study}.csv")
    table()


if __name__ == "__main__":
    main()
