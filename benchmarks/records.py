"""Rows of results: appended one by one, so that what is finished is not run again. All folders of benchmarks use it."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
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
