from __future__ import annotations

from collections.abc import Callable

import joblib
import pytest
from anndata import AnnData

SLOTS = ("obs", "var", "obsm", "varm", "obsp", "varp", "layers", "uns")


@pytest.fixture
def snapshot() -> Callable[[AnnData], dict[tuple[str, str], str]]:
    """Return a function that hashes every part of an AnnData object, to see what a call changed."""

    def take(adata: AnnData) -> dict[tuple[str, str], str]:
        parts = {(slot, key): getattr(adata, slot)[key] for slot in SLOTS for key in getattr(adata, slot)}
        return {name: joblib.hash(part) for name, part in {("X", ""): adata.X, **parts}.items()}

    return take
