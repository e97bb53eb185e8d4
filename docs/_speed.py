"""The tables of the speed page, read off the committed results of ``benchmarks/speed``."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parents[1] / "benchmarks" / "speed" / "results"
NOT_MEASURED = "*Not measured.*"


def read(name: str) -> dict[str, Any] | None:
    """Return a result by the name of its file, ``None`` where it was not measured."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text()) if path.is_file() else None


def table(header: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table."""
    lines = ["| " + " | ".join(header) + " |", "|---" * len(header) + "|"]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def machine(report: dict[str, Any]) -> str:
    """Return a sentence that says where a result was measured."""
    m = report["machine"]
    software = ", ".join(f"{name} {m[name]}" for name in ("python", "torch", "numpy", "scipy") if name in m)
    place = f"{m['device']}; " if "device" in m else ""
    hardware = f"{place}{m['cpu']}, {m['cores']} cores, {m['memory_gib']} GiB"
    return f"Measured on: {hardware}, {m['threads']} thread(s); {software}."


def _step() -> str:
    report = read("step")
    if report is None:
        return NOT_MEASURED
    names = [name for name, row in report.items() if isinstance(row, dict) and "ratio" in row]
    rows = []
    for name in names:
        row = report[name]
        low, middle, high = row["ratio"]
        rows.append(
            [
                name,
                f"{row['reference_ms_per_sample']:.1f}",
                f"{row['packed_ms_per_sample_and_mask']:.1f}",
                f"**{middle:.2f}×** ({low:.2f}–{high:.2f})",
            ]
        )
    header = ["", "padded, ms per sample", "packed, ms per sample and mask", "ratio, median (quartiles)"]
    away = {name: f"{value:.0e}" if value else "0" for name, value in report["agreement"].items()}
    agreement = f"Largest relative differences: {away['loss']} of the loss, {away['gradients']} of a gradient."
    return "\n\n".join([table(header, rows), agreement, machine(report)])


def _tables() -> str:
    report = read("tables")
    if report is None:
        return NOT_MEASURED
    rows = [
        [name, f"{row['seconds']:.1f} s", f"{row['peak_gib_beyond_input']:.2f} GiB"]
        for part in ("tokens", "neighbors")
        for name, row in report[part].items()
        if isinstance(row, dict)
    ]
    return (
        table([f"{report['settings']['cells']:,} cells", "time", "memory beyond the input"], rows)
        + "\n\n"
        + machine(report)
    )


def _embed() -> str:
    report = read("embed")
    if report is None:
        return NOT_MEASURED
    rows = [
        [
            f"{row['cells']:,}",
            f"{row['cpu_seconds']:.1f} s",
            f"{row['cells'] / row['cpu_seconds']:,.0f}",
            f"{row['peak_gib']:.2f} GiB",
            f"{row['peak_gib_beyond_input']:.2f} GiB",
        ]
        for row in report["rows"]
    ]
    header = ["cells", "processor time", "cells per processor second", "peak of the process", "beyond the input"]
    slope, largest = report["exponent_of_cpu_seconds"], report["rows"][-1]["cells"]
    n_points = sum(row["cells"] >= 10_000 for row in report["rows"])
    text = (
        ""
        if slope is None
        else f"From 10,000 to {largest:,} cells ({n_points} sizes) time grows as cells to the power of {slope:.2f}. "
    )
    if largest < 1_000_000:
        text += f"More than {largest:,} cells: *not measured* yet, so neither is growth up to 1,000,000. "
    return table(header, rows) + "\n\n" + text + machine(report)


def _niches() -> str:
    report = read("niches")
    if report is None:
        return NOT_MEASURED
    rows = [[part, f"{seconds:.1f} s"] for part, seconds in report["seconds"].items()]
    rows.append(["**together**", f"**{report['total_seconds']:.0f} s**"])
    title = f"{report['cells']:,} cells × {report['genes']:,} genes"
    peak = f"Peak beyond the data: {report['peak_gib_beyond_input']:.2f} GiB. "
    return table([title, "time"], rows) + "\n\n" + peak + machine(report)


def _estimates() -> str:
    report = read("estimates")
    if report is None:
        return NOT_MEASURED
    rows = []
    for name, row in report["cases"].items():
        for what, verb in (("train", "training"), ("embed", "embedding")):
            cells = [f"{name}: {verb}"]
            for quantity, unit in (("gib", "GiB"), ("seconds", "s")):
                pair = row[what][quantity]
                digits = 2 if unit == "GiB" else 1
                cells += [f"{pair['estimated']:.{digits}f} / {pair['measured']:.{digits}f} {unit}"]
            rows.append(cells)
    return table(["", "peak, estimated / measured", "time, estimated / measured"], rows) + "\n\n" + machine(report)


def _gpu() -> str:
    report = read("gpu")
    if report is None:
        return "*Not measured: no CUDA device was at hand.* `python -m benchmarks.speed.gpu` is ready to run on one."
    rows = [
        ["training, samples/s, packed", f"{report['samples_per_second']['packed']:,}"],
        ["training, samples/s, padded reference", f"{report['samples_per_second']['reference']:,}"],
        ["share of the measured bf16 matmul rate", f"{report['share_of_matmul_rate']:.0%}"],
        ["times that the host waits for the device in a step", f"{report['waits_per_step']}"],
        ["embedding, cells/s", f"{report['embedded_cells_per_second']:,}"],
        ["`base`: training, s", f"{report['base']['training_seconds']:.0f}"],
        [f"`base`: embedding {report['base']['cells']:,} cells, s", f"{report['base']['embedding_seconds']:.0f}"],
    ]
    return table(["`paper`, bf16", ""], rows) + "\n\n" + machine(report)


def _monitor() -> str:
    report = read("monitor")
    if report is None:
        return NOT_MEASURED
    rows = []
    for preset in (name for name in report if name != "machine"):
        low, middle, high = (100 * share for share in report[preset]["share"])
        rows.append([f"`{preset}`", f"{report[preset]['readings'][1]}", f"**{middle:.1f}%** ({low:.1f}–{high:.1f})"])
    return (
        table(["", "readings", "processor time over that of the steps, median (quartiles)"], rows)
        + "\n\n"
        + machine(report)
    )


def _cell_step() -> str:
    report = read("cell_step")
    if report is None:
        return NOT_MEASURED
    rows = []
    for name, title in (("half", "half of 600 positions filled"), ("pbmc3k", "97% filled, as by `pbmc3k`")):
        row = report[name]
        low, middle, high = row["ratio"]
        times = [f"{row[side]:.1f}" for side in ("padded_ms_per_cell", "packed_ms_per_cell")]
        rows.append([title, *times, f"**{middle:.2f}×** ({low:.2f}–{high:.2f})"])
    header = ["", "padded, ms per cell", "packed, ms per cell", "ratio, median (quartiles)"]
    away = report["agreement"]
    agreement = f"Largest relative differences: {away['loss']:.0e} of the loss, {away['gradients']:.0e} of a gradient."
    return "\n\n".join([table(header, rows), agreement, machine(report)])


def _cell_embed() -> str:
    report = read("cell_embed")
    if report is None:
        return NOT_MEASURED
    rows = [
        [
            f"{row['cells']:,}",
            f"{row['genes']:,}",
            f"{row['genes_of_a_cell']:,.0f}",
            f"{row['seconds']:.0f} s",
            f"{row['cpu_seconds']:.0f} s",
            f"{row['peak_gib_beyond_input']:.2f} GiB",
        ]
        for row in report["rows"]
    ]
    header = ["cells", "genes", "expressed by a cell (median)", "time", "processor time", "memory beyond the input"]
    return table(header, rows) + "\n\n" + machine(report)


def _peers() -> str:
    path = RESULTS / "peers.csv"
    if not path.is_file():
        return NOT_MEASURED
    with path.open(newline="") as file:
        found = list(csv.DictReader(file))
    rows = []
    for row in sorted(
        found, key=lambda row: (int(row["cells"]), row["finished"] != "True", float(row["cpu_seconds"] or 0))
    ):
        done = row["finished"] == "True"
        stopped = (
            f"did not finish in {float(row['limit']) / 60:.0f} min" if "time limit" in row["error"] else row["error"]
        )
        took = [f"{float(row[name]):,.0f} s" for name in ("seconds", "cpu_seconds")] if done else [stopped, ""]
        more = [f"{float(row['peak_gib']):.2f} GiB", f"{float(row['ari_planted']):.2f}"] if done else ["", ""]
        rows.append([f"{int(row['cells']):,}", row["method"], *took, *more])
    return table(["cells", "method", "time", "processor time", "most memory", "ARI with planted niches"], rows)


def parts() -> dict[str, str]:
    """Return the page's tables by the name of the file they are included from."""
    makers = {
        "step": _step,
        "tables": _tables,
        "embed": _embed,
        "cell_step": _cell_step,
        "cell_embed": _cell_embed,
        "niches": _niches,
        "estimates": _estimates,
        "gpu": _gpu,
        "monitor": _monitor,
        "peers": _peers,
    }
    return {f"speed_{name}": make() + "\n" for name, make in makers.items()}
