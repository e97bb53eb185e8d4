"""A piece of real brain with simulated counts, on which nothing of this project was chosen.

    python -m benchmarks.paper.semisynthetic "$SCJEPA_DATA" brain.h5ad

Places, regions and cell types are those of STARmap PLUS, well 11 (Shi et al. 2023), whose counts are not at hand.
Counts are those of `simulated_tissue` at difficulty "medium", drawn for each cell's type and region. Of eight windows
of equal numbers of cells the one with the most regions is taken; regions of fewer than 50 cells there are not scored.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd

from scjepa.datasets import simulated_tissue

COLUMNS, ROWS, FEWEST = 4, 2, 50


def window(cells: pd.DataFrame) -> pd.DataFrame:
    """Return the window with the most regions of ``FEWEST`` cells or more."""
    column = pd.qcut(cells["X"], COLUMNS, labels=False)
    row = cells.groupby(column)["Y"].transform(lambda y: pd.qcut(y, ROWS, labels=False))
    return max(
        (part for _, part in cells.groupby([column, row])),
        key=lambda part: (part["region"].value_counts() >= FEWEST).sum(),
    )


if __name__ == "__main__":
    folder, out = sys.argv[1:]
    table = pd.read_csv(
        Path(folder) / "spatial" / "starmap_plus_well11_labels_no_counts.csv.gz", index_col="NAME"
    ).rename(columns={"Tissue_Symbol": "region", "Maintype_Symbol": "cell_type"})
    cells = window(table)
    adata = simulated_tissue(coordinates=cells[["X", "Y"]], labels=cells, difficulty="medium", seed=0)
    rare = adata.obs["region"].value_counts().loc[lambda n: n < FEWEST].index
    adata.obs["region"] = adata.obs["region"].astype(str).where(~adata.obs["region"].isin(rare), "unlabelled")
    adata.obs = adata.obs.astype({"region": "category"})
    adata.write_h5ad(out)
    print(
        f"{out}: {adata.n_obs:,} cells, {adata.obs['region'].nunique() - 1} regions and {len(rare)} too rare to score"
    )
