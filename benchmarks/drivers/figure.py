"""The picture of the page on reasons: simulated tissue in which each niche has a cell type of its own.

python -m benchmarks.drivers.figure          # docs/_static/why.png
"""

from __future__ import annotations

import warnings
from pathlib import Path

from benchmarks.drivers.run import by_readout, planted

import scjepa

PICTURE = Path(__file__).parents[2] / "docs" / "_static" / "why.png"


def main() -> None:
    warnings.filterwarnings("ignore")
    adata = planted("both", seed=0)
    drivers = by_readout(adata)
    print(adata.uns["driver"])
    first = sorted(drivers["niche"].unique())[:3]
    shown = drivers[drivers["niche"].isin(first) & (drivers["ring"].fillna(1) != 0)]
    scjepa.pl.niche_drivers(shown, n_drivers=5, save=PICTURE)


if __name__ == "__main__":
    main()
