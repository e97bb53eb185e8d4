"""Write cells of CELLxGENE Census to a collection that Cell-JEPA trains on from disk.

    pip install tiledbsoma
    python -m benchmarks.checkpoints.census_corpus --out kidney --version 2025-01-30
    python -m benchmarks.checkpoints.census_corpus --out blood --where "tissue_general == 'blood'"
    python -m benchmarks.checkpoints.census_corpus --out kidney --uri /data/soma/homo_sapiens

The filter is the paper's by default: Homo sapiens, kidney; primary data alone, so that no cell is there twice. Raw
counts are streamed part by part (``--part`` cells at once in memory), each a zarr store of the collection, written
whole or not at all: the same command goes on where it was stopped, and refuses a folder of another version or filter.
The collection is read by ``scjepa.CellJEPA.setup_annbatch(collection_path=..., paths=[...])`` or, part by part, by
anything that reads AnnData. ``--uri`` names a copy on disk; without it the Census is read from its public bucket, which
takes a network.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
from anndata import AnnData

from scjepa._core.files import whole

BUCKET = "s3://cellxgene-census-public-us-west-2/cell-census/{version}/soma/census_data/homo_sapiens"
REGION = {"vfs.s3.region": "us-west-2", "vfs.s3.no_sign_request": "true"}
WHERE = "tissue_general == 'kidney' and is_primary_data == True"
COLUMNS = ("soma_joinid", "dataset_id", "assay", "cell_type", "donor_id", "disease", "tissue")
MANIFEST = "census"
"""Attribute of the collection that says what is in it."""


def opened(uri: str) -> Any:
    """Return the SOMA experiment, a context manager."""
    try:
        import tiledbsoma
    except ImportError as error:
        raise SystemExit("The Census is read by tiledbsoma: pip install tiledbsoma") from error
    context = tiledbsoma.SOMATileDBContext(tiledb_config=REGION) if uri.startswith("s3://") else None
    return tiledbsoma.Experiment.open(uri, context=context)


def ids_of(experiment: Any, where: str) -> np.ndarray:
    """Return the rising ids of the cells of a filter."""
    found = experiment.obs.read(column_names=["soma_joinid"], value_filter=where or None).concat()
    ids = np.sort(found["soma_joinid"].to_numpy())
    if not len(ids):
        raise SystemExit(f"No cell is of the filter {where!r}.")
    return ids


def part_of(experiment: Any, ids: np.ndarray, measurement: str, layer: str, genes: str) -> AnnData:
    """Return cells by their ids, raw counts of all genes, named by a column of ``var``."""
    import somacore

    names = [column for column in COLUMNS if column in experiment.obs.schema.names]
    with experiment.axis_query(measurement, obs_query=somacore.AxisQuery(coords=(ids,))) as query:
        found = query.to_anndata(layer, column_names={"obs": names, "var": ["soma_joinid", genes]})
    counts = found.X.tocsr()
    if counts.nnz and (counts.data.min() < 0 or (counts.data % 1).any()):
        raise SystemExit(f"X[{layer!r}] holds values that are no counts. Name another with --layer.")
    obs = found.obs[names].astype({name: "category" for name in names if name != "soma_joinid"})
    obs.index = [f"census-{number}" for number in obs["soma_joinid"]]
    return AnnData(counts.astype(np.float32), obs=obs, var=pd.DataFrame(index=found.var[genes].astype(str).to_numpy()))


def write(experiment: Any, out: Path, facts: dict[str, Any], part: int) -> int:
    """Write the parts that are missing, and return how many were."""
    import zarr

    ids = ids_of(experiment, facts["where"])
    manifest = facts | {"part": part, "n_cells": len(ids), "first": int(ids[0]), "last": int(ids[-1])}
    group = zarr.open_group(str(out), mode="a", zarr_format=ad.settings.zarr_write_format)
    there = group.attrs.get(MANIFEST)
    if there not in (None, manifest):
        other = next(name for name in manifest if there.get(name) != manifest[name])
        raise SystemExit(f"{out} is of {other}={there.get(other)!r}, not {manifest[other]!r}. Name another --out.")
    group.attrs[MANIFEST] = manifest
    written = 0
    for number, start in enumerate(range(0, len(ids), part)):
        target = out / f"part-{number:05}"
        if target.exists():
            continue
        cells = part_of(experiment, ids[start : start + part], *(facts[k] for k in ("measurement", "layer", "genes")))
        with whole(target, beside=out.with_name(f"{out.name}.draft")) as draft:
            cells.write_zarr(draft)
        written += 1
        print(f"{target}: {min(start + part, len(ids)):,} of {len(ids):,} cells", flush=True)
    return written


def main() -> None:
    """Read the command line, and write what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the collection")
    parser.add_argument("--version", default="2025-01-30", help="release of the Census, a date")
    parser.add_argument("--uri", help="SOMA experiment of one species (default: Homo sapiens in the public bucket)")
    parser.add_argument("--where", default=WHERE, help="filter of cells, as tiledbsoma reads it; '' for all")
    parser.add_argument("--measurement", default="RNA")
    parser.add_argument("--layer", default="raw", help="X layer of raw counts")
    parser.add_argument("--genes", default="feature_name", help="var column of gene names, such as feature_id")
    parser.add_argument("--part", type=int, default=100_000, help="cells of a part")
    options = parser.parse_args()
    uri = options.uri or BUCKET.format(version=options.version)
    facts = {name: getattr(options, name) for name in ("where", "measurement", "layer", "genes")}
    with opened(uri) as experiment:
        write(experiment, options.out, {"uri": uri, **facts}, options.part)
    print(options.out)


if __name__ == "__main__":
    main()
