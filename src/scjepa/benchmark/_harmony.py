"""Harmony, which follows embeddings of any method."""

from __future__ import annotations

import numpy as np


def harmony(embedding: np.ndarray, batches: np.ndarray, seed: int = 0) -> np.ndarray:
    """Return an embedding corrected for batches by Harmony.

    Raises
    ------
    ImportError
        If ``harmonypy`` is not installed.
    """
    import pandas as pd

    try:
        import harmonypy
    except ImportError as error:
        raise ImportError("Harmony needs harmonypy: pip install harmonypy.") from error
    obs = pd.DataFrame({"batch": batches.astype(str)})
    found = harmonypy.run_harmony(embedding, obs, "batch", random_state=seed, verbose=False)
    corrected = np.asarray(found.Z_corr)
    return corrected if len(corrected) == len(embedding) else corrected.T
