"""How much of an embedding survives when cells are sequenced less deeply: thin the target's counts and embed again.

    python benchmarks/cells/dropout.py --seeds 3

For 50, 25 and 10% of the molecules: the share of nearest neighbors in common with the embedding of all molecules, the
accuracy of labels voted by the 15 nearest cells of that embedding, and AvgBIO's NMI of the thinned cells alone. HVG-PCA
and scVI are fitted on the whole molecules of the target. Rows go to ``results/dropout.csv``; what is there is not run
again. Models come from where ``zero_shot.py`` left them.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd
from methods import embedder, fitted, pretrained
from rows import RESULTS, append, commit, done
from sets import corpus, target
from zero_shot import FITTED, METHODS

from scjepa.datasets import thin_counts
from scjepa.metrics import average_bio, label_transfer, neighbor_agreement

FRACTIONS = (1.0, 0.5, 0.25, 0.1)


def run(method: str, seed: int, options: argparse.Namespace) -> None:
    """Embed the thinned cells by one method, score, and append rows, if they are missing."""
    key = {"method": method, "seed": seed, "max_steps": options.max_steps or "preset"}
    if method in FITTED:
        key["max_steps"] = "fitted"
    if done(options.out, key):
        return
    scored = target()
    labels = scored.obs["cell_type"]
    if method in FITTED:
        embed = fitted(method, scored, seed, options.scvi_epochs)
    else:
        embed = embedder(pretrained(method, corpus(), seed, options.max_steps), pooling=options.pooling)
    whole = embed(scored)
    rows = []
    for fraction in FRACTIONS:
        embedding = whole if fraction == 1 else embed(thin_counts(scored, fraction, seed=seed))
        bio = average_bio(embedding, labels, resolutions=options.resolutions)
        row = {
            **key,
            "fraction": fraction,
            "neighbors": neighbor_agreement(whole, embedding),
            "label_accuracy": label_transfer(whole, labels, embedding, labels).accuracy,
            "nmi": bio.nmi,
            "avg_bio": bio.avg_bio,
            "readout": "-" if method in FITTED else options.pooling,
            "commit": commit(),
        }
        rows.append(row)
        print({name: row[name] for name in list(row)[:-2]}, flush=True)
    append(options.out, pd.DataFrame(rows))


def main() -> None:
    """Read the command line and run what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--max-steps", type=int)
    parser.add_argument("--scvi-epochs", type=int)
    parser.add_argument("--pooling", default="cls", choices=("cls", "genes"))
    parser.add_argument("--resolutions", nargs="+", type=float, default=[0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0])
    parser.add_argument("--out", type=Path, default=RESULTS / "dropout.csv")
    options = parser.parse_args()
    for seed in range(options.first_seed, options.first_seed + options.seeds):
        for method in options.methods:
            run(method, seed, options)


if __name__ == "__main__":
    main()
