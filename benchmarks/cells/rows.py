"""Rows of results: appended one by one, so that what is finished is not run again."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pandas as pd

RESULTS = Path(__file__).parent / "results"


def commit() -> str:
    """Return the checkout's short commit, with ``+`` where the package has changes."""
    git = ["git", "-C", str(Path(__file__).parent)]
    name = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    changed = subprocess.run([*git, "status", "--porcelain", "../../src"], capture_output=True, text=True).stdout
    return name + ("+" if changed else "")


def done(path: Path, key: dict) -> bool:
    """Tell whether rows with this key are in the file."""
    if not path.is_file():
        return False
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    mask = pd.Series(True, index=table.index)
    for name, value in key.items():
        mask &= table[name] == str(value)
    return bool(mask.any())


def append(path: Path, rows: pd.DataFrame) -> None:
    """Append rows, in the columns of those that are there; new columns are added to all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_file():
        rows = pd.concat([pd.read_csv(path, dtype=str, keep_default_na=False), rows])
    rows.to_csv(path, index=False, float_format="%.5g")
