"""The picture of the page on atlases: simulated tissue, of which one region was left out of the atlas.

python -m benchmarks.atlas.figure          # docs/_static/atlas.png
"""

from __future__ import annotations

import warnings
from pathlib import Path

import scjepa
from scjepa._core.squidpy import spatial_graph

PICTURE = Path(__file__).parents[2] / "docs" / "_static" / "atlas.png"


def main() -> None:
    warnings.filterwarnings("ignore")
    whole = scjepa.datasets.simulated_tissue(6000, n_sections=3, n_niches=5, difficulty="easy", seed=4)
    spatial_graph(whole, n_neighs=10, library_key="section")
    last, left_out = whole.obs["section"].cat.categories[-1], whole.obs["region"].cat.categories[-1]
    new = whole[whole.obs["section"] == last].copy()
    known = whole[(whole.obs["section"] != last) & (whole.obs["region"] != left_out)].copy()
    scjepa.tl.find_niches(known, n_niches=4, align="scale")
    atlas = scjepa.NicheAtlas.fit(known)
    atlas.predict(new)
    is_left, is_unknown = new.obs["region"] == left_out, new.obs["niche"] == "unknown"
    print(f"unknown: {is_unknown[is_left].mean():.2f} of {left_out}, {is_unknown[~is_left].mean():.2f} of the others")
    new.uns["niche_colors"][-1] = "#000000"  # shown, and not as a gap
    scjepa.pl.niches(new, reference="region", save=PICTURE)


if __name__ == "__main__":
    main()
