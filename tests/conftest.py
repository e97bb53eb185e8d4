"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from anndata import AnnData

# One thread: the suite runs under xdist on small machines, and results repeat.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder of the development data; tests that need it are skipped where it is absent."""
    folder = Path(os.environ.get("SCJEPA_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not (folder / "spatial").is_dir():
        pytest.skip(f"development data not found in {folder}; set SCJEPA_DATA to use it")
    return folder


@pytest.fixture(scope="session")
def fresh():
    """Return a function that copies data so that scvi-tools knows nothing of the copy."""

    def copied(adata: AnnData) -> AnnData:
        adata = adata.copy()
        for key in [key for key in adata.uns if key.startswith("_scvi")]:
            del adata.uns[key]
        return adata

    return copied
