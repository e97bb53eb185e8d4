"""Every figure that the results of a benchmark allow."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import pandas as pd
from matplotlib.figure import Figure

from scjepa.benchmark._figures_maps import PREFERRED, Found, found_of, niche_maps, umaps
from scjepa.benchmark._figures_scores import (
    ablation_bars,
    agreement_against_mixing,
    expressed_genes_per_cell,
    normalization_families,
)
from scjepa.benchmark._plan import OURS, Level
from scjepa.benchmark._scoring import ALL
from scjepa.benchmark._store import RunKey, Store
from scjepa.benchmark._summary import WEIGHTED, table_1, table_2
from scjepa.benchmark._tasks import TECHNOLOGIES, Task

METATOKEN = "encoder.metatoken"
"""Axis whose levels are drawn on the tissue."""


def every_figure(tasks: Sequence[Task], store: Store, rows: pd.DataFrame) -> dict[str, Figure]:
    """Return figures by name; what cannot be drawn is left out.

    ``niches`` (maps of each task, NMI above each), ``umap`` (by technology), ``nmi_ilisi``, ``ablation`` (bars of each
    axis), ``normalizations``, ``metatoken`` (maps) and ``expressed_genes``, each followed by the name of its data.
    """
    return {name: figure for name, figure in _figures(tasks, store, rows) if figure is not None}


def _figures(tasks: Sequence[Task], store: Store, rows: pd.DataFrame) -> Iterator[tuple[str, Figure | None]]:
    one, two = table_1(rows), table_2(rows, store.levels)
    changed = _changed(store.levels)
    for task in tasks:
        name = _file_name(task)
        own = _of(one, task)
        found = found_of(task, store, _first_runs(task, store, changed))
        if found:
            yield f"niches_{name}", niche_maps(task, found)
        if found and task.kind == TECHNOLOGIES:
            yield f"umap_{name}", umaps(task, found)
        for mixing in ("ilisi_technology", "ilisi_section"):
            if mixing in own and own[mixing].notna().any():
                yield f"nmi_{mixing}_{name}", agreement_against_mixing(_joined(own, mixing, changed), mixing)
        yield f"expressed_genes_{name}", expressed_genes_per_cell(task)
        if len(two):
            yield from _ablation(task, name, _of(two, task), store)


def _changed(levels: Sequence[Level]) -> set[str]:
    """Return the configurations that an ablation made, which the figures of all methods leave out."""
    default = {name for level in levels if level.default for name in (level.configuration, level.untrained)}
    return {name for level in levels for name in (level.configuration, level.untrained)} - default - {""}


def _ablation(task: Task, name: str, table: pd.DataFrame, store: Store) -> Iterator[tuple[str, Figure | None]]:
    readout = next((r for r in PREFERRED if r in set(table["readout"])), None)
    shown = table[(table["readout"] == readout) | table["reason"].notna()]
    for axis in dict.fromkeys(shown["axis"]):
        if " × " not in axis:
            yield f"ablation_{axis}_{name}", ablation_bars(shown, axis)
    group = WEIGHTED if WEIGHTED in set(shown["group"]) else next(iter(shown["group"].dropna()), None)
    yield f"normalizations_{name}", normalization_families(shown[shown["group"] == group])
    if METATOKEN in set(shown["axis"]):
        levels = {level.value: level.configuration for level in store.levels if level.axis == METATOKEN}
        keys = {
            {"True": "with metatoken", "False": "without metatoken"}.get(value, value): key
            for value, configuration in levels.items()
            for key in _runs(task, store)
            if key.method == OURS and key.configuration == configuration and key.seed == 0
        }
        found: list[Found] = found_of(task, store, keys)
        if found:
            yield f"metatoken_{name}", niche_maps(task, found)


def _of(table: pd.DataFrame, task: Task) -> pd.DataFrame:
    return table[(table["data"] == task.data) & (table["task"] == task.kind)]


def _runs(task: Task, store: Store) -> list[RunKey]:
    return [key for key in store.keys if key.data == task.data and key.task == task.kind]


def _first_runs(task: Task, store: Store, changed: set[str]) -> dict[str, RunKey]:
    """Return the run of the lowest seed of each method, levels of an ablation left out, by a title."""
    runs = [key for key in _runs(task, store) if key.configuration not in changed]
    first: dict[tuple[str, str, str], RunKey] = {}
    for key in sorted(runs, key=lambda key: key.seed):
        first.setdefault((key.method, key.settings, key.configuration), key)
    several = pd.Series([method for method, _, _ in first]).value_counts()
    titles = {}
    for key in _runs(task, store):
        if key in first.values():
            more = [word for word in (key.settings, key.configuration) if word != "-"]
            titles[", ".join([key.method, *(more if several[key.method] > 1 else [])])] = key
    return titles


def _joined(table: pd.DataFrame, mixing: str, changed: set[str]) -> pd.DataFrame:
    """Return one row for each method and read-out: agreement weighted by cells, mixing of all cells."""
    table = table[~table["configuration"].isin(changed)]
    if not (table["group"] == WEIGHTED).any():
        return table
    keys = ["method", "settings", "configuration", "readout"]
    mixed = [column for column in table if column.startswith(mixing)]
    return (
        table[table["group"] == WEIGHTED]
        .drop(columns=mixed)
        .merge(table.loc[table["group"] == ALL, [*keys, *mixed]], on=keys)
    )


def _file_name(task: Task) -> str:
    return re.sub(r"[^A-Za-z0-9-]+", "_", f"{task.data}_{task.kind}").strip("_")
