"""The tables of the page on choosing, read off the committed results of ``benchmarks``."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path

import _speed

from scjepa.config import PRESETS
from scjepa.stjepa import MASKING_SCHEMES, OBJECTIVES, RANK_ENCODERS, SEGMENT_ENCODERS
from scjepa.nn import VALUE_ENCODERS
from scjepa.tokens import NORMALIZATIONS

QUALITY = Path(__file__).parents[1] / "benchmarks" / "quality" / "results"
SCORES = ("nmi", "ari", "nmi_matched", "ari_matched")
HEADER = ["NMI", "ARI", "NMI matched", "ARI matched"]


def _rows(name: str) -> list[dict[str, str]]:
    path = QUALITY / f"{name}.csv"
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def _scores(row: dict[str, str]) -> list[str]:
    return [f"{float(row[name]):.3f}" for name in SCORES]


def candidates() -> str:
    """Return the trials of objectives, masks and steps behind the presets, read out in the way all of them were."""
    rows = [row for row in _rows("candidates") if row["readout"] == "z30"]
    if not rows:
        return _speed.NOT_MEASURED
    shown = [[row["set"], row["candidate"], f"{int(row['steps']):,}", *_scores(row)] for row in rows]
    return _speed.table(["set", "candidate", "steps", *HEADER], shown)


def _time(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def cost() -> str:
    """Return what embedding with the encoder of ``demo`` and ``base`` takes by number of cells."""
    report = _speed.read("embed")
    if report is None:
        return _speed.NOT_MEASURED
    shown = [
        [f"{row['cells']:,}", _time(row["cpu_seconds"]), f"{row['peak_gib_beyond_input']:.2f} GiB"]
        for row in report["rows"]
    ]
    return _speed.table(["cells", "processor time", "memory beyond the input"], shown) + "\n\n" + _speed.machine(report)


def table_sizes() -> str:
    """Return the size of the token table of a million cells by its options."""
    report = _speed.read("tables")
    if report is None:
        return _speed.NOT_MEASURED
    cells = report["settings"]["cells"]
    shown = [
        [
            name,
            f"{row['table_gib']:.2f} GiB",
            f"{row['table_gib'] * 2**30 / cells:,.0f} bytes",
            f"{row['seconds']:.1f} s",
        ]
        for name, row in report["tokens"].items()
        if isinstance(row, dict)
    ]
    header = [f"{cells:,} cells, L = {report['settings']['tokens']}", "table", "each cell", "to build it"]
    return _speed.table(header, shown) + "\n\n" + _speed.machine(report)


def axes() -> str:
    """Return every axis of the paper with the option that it is here, and what that can be."""
    rows = [
        ["tokenizer", 'tokens={"tokenizer": ...}', _named_by(("graph", "neighborhood"))],
        ["genes of a cell, *L*", 'tokens={"n_tokens": ...}', "any; 16 to 512 in the paper"],
        ["neighbors, *k*", 'tokens={"n_neighbors": ...}', "any"],
        ["normalization of values", 'tokens={"values": ...}', _named_by(NORMALIZATIONS)],
        ["normalization of ranks", 'tokens={"ranks": ...}', _named_by(NORMALIZATIONS)],
        ["value encoder", 'encoder={"value": ...}', _named_by(VALUE_ENCODERS)],
        ["bins of the value encoder", 'encoder={"n_bins": ...}', "any; 20, 50 and 100 in the paper"],
        ["rank encoder", 'encoder={"rank": ...}', _named_by(RANK_ENCODERS)],
        ["spatial encoder", 'encoder={"segment": ...}', _named_by(SEGMENT_ENCODERS)],
        ["metatoken", 'encoder={"metatoken": ...}', "`True`, `False`"],
        ["mask", 'masking={"scheme": ...}', _named_by(MASKING_SCHEMES)],
        ["mask ratio, ρ", 'masking={"ratio": ...}', "between 0 and 1; 0.3 to 0.9 in the paper"],
        ["version", 'objective={"name": ...}', _named_by(OBJECTIVES)],
        ["gene in the query", 'objective={"query": ...}', _named_by(("gene", "rank"))],
        ["what the target encoder sees", 'objective={"target_view": ...}', _named_by(("all", "masked"))],
        ["normalization of targets", 'objective={"target_norm": ...}', _named_by(("layer", "none"))],
    ]
    default = PRESETS["base"].to_dict()
    for row in rows:
        part, name = row[1].split('={"')
        row.insert(2, f"`{default[part][name.split(chr(34))[0]]}`")
        row[1] = f"`{row[1]}`"
    return _speed.table(["axis", "option", "in `base`", "values"], rows)


def _named_by(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def parts() -> dict[str, str]:
    """Return the page's tables by the name of the file they are included from."""
    makers = {"candidates": candidates, "cost": cost, "tables": table_sizes, "axes": axes}
    return {f"choosing_{name}": make() + "\n" for name, make in makers.items()}
