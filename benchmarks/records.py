"""Rows of results: appended one by one, so that what is finished is not run again. All folders of benchmarks use it."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterable, Mapping
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd

HERE = Path(__file__).parent


def commit() -> str:
    """Return the checkout's short commit, with ``+`` where the package has changes."""
    git = ["git", "-C", str(HERE)]
    name = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    changed = subprocess.run([*git, "status", "--porcelain", "../src"], capture_output=True, text=True).stdout
    return name + ("+" if changed else "")


def done(path: Path, key: Mapping[str, Any]) -> bool:
    """Tell whether rows with this key are in the file."""
    if not path.is_file():
        return False
    table = pd.read_csv(path, dtype=str, keep_default_na=False, usecols=list(key))
    return bool((table[list(key)] == [str(value) for value in key.values()]).all(axis=1).any())


def keys(**axes: Iterable[Any]) -> list[dict[str, Any]]:
    """Return every combination of the values, the last varying fastest."""
    return [dict(zip(axes, values, strict=True)) for values in product(*axes.values())]


def fill(
    path: Path, wanted: Iterable[Mapping[str, Any]], make: Callable[..., pd.DataFrame | list[dict[str, Any]]]
) -> None:
    """Append the rows that are not in the file, as they are made: the loop of all benchmarks.

    Parameters
    ----------
    path
        The file.
    wanted
        The key of each batch of rows, columns by name.
    make
        From the values of a key to its rows, which need not hold the key; without rows the key is tried again.
    """
    for key in wanted:
        if done(path, key):
            continue
        rows = pd.DataFrame(make(*key.values()))
        if len(rows):
            rows = pd.DataFrame(dict(key), index=rows.index).join(rows).assign(commit=commit())
            print(rows.drop(columns="commit").round(3).to_string(index=False), flush=True)
            append(path, rows)


def table(head: Iterable[str], lines: Iterable[Iterable[str]]) -> str:
    """Return a Markdown table."""
    head = list(head)
    rows = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    return "\n".join([*rows, *("| " + " | ".join(line) + " |" for line in lines)])


def spread(mean: float, std: float, space: str = " ") -> str:
    """Return a mean with its standard deviation, where there is one."""
    if pd.isna(mean):
        return ""
    return f"{mean:.3f}" if pd.isna(std) else f"{mean:.3f}{space}±{space}{std:.3f}"


def append(path: Path, rows: pd.DataFrame) -> None:
    """Append rows, in the columns of those that are there; new columns are added to all.

    Without new columns nothing that is there is written again, so that two processes can share a file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.is_file():
        rows.to_csv(path, index=False, float_format="%.5g")
        return
    columns = list(pd.read_csv(path, nrows=0).columns)
    if set(rows.columns) <= set(columns):
        rows.reindex(columns=columns).to_csv(path, mode="a", header=False, index=False, float_format="%.5g")
        return
    there = pd.read_csv(path, dtype=str, keep_default_na=False)
    pd.concat([there, rows]).to_csv(path, index=False, float_format="%.5g")
