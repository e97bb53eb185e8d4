"""ST-JEPA and the controls that share its input, as methods."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from anndata import AnnData

from scjepa import _keys
from scjepa.benchmark.methods._result import MethodError

if TYPE_CHECKING:
    from torch import Tensor

    from scjepa.models import STJEPA
    from scjepa.nn import Batch, SpatialJEPA


def _model(adata: AnnData, seed: int, preset: Any, parts: Mapping[str, Any]) -> STJEPA:
    from scjepa.models import STJEPA

    STJEPA.setup_anndata(adata, technology_key=_keys.TECHNOLOGY, library_key=_keys.SECTION)
    return STJEPA(adata, preset, seed=seed, **parts)


def _info(model: STJEPA) -> dict[str, Any]:
    return {"steps": model.n_steps_, **{f"config.{name}": part for name, part in model.config.to_dict().items()}}


def stjepa(
    adata: AnnData,
    *,
    seed: int,
    n_niches: int | None = None,
    preset: Any = "base",
    accelerator: str = "auto",
    genes: Any = None,
    **parts: Any,
) -> dict[str, Any]:
    """Train ST-JEPA on the data and embed its neighborhoods; ``parts`` change the preset."""
    model = _model(adata, seed, preset, parts)
    model.train(accelerator=accelerator, progress_bar=False)
    return {"embedding": model.get_latent_representation(genes=genes), "info": _info(model)}


def untrained(
    adata: AnnData, *, seed: int, n_niches: int | None = None, preset: Any = "base", **parts: Any
) -> dict[str, Any]:
    """Embed neighborhoods with the encoder's initial weights."""
    model = _model(adata, seed, preset, parts)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="This model is not trained")
        return {"embedding": model.get_latent_representation(), "info": _info(model)}


class _InputAlone:
    """Stands in for the encoder: the token embedding, and nothing behind it."""

    def __init__(self, module: SpatialJEPA):
        self.config = module.config
        self._embedding = module.target.embedding

    def __call__(self, batch: Batch, encoder: str) -> Tensor:
        return self._embedding(batch)


def pooled_input(
    adata: AnnData,
    *,
    seed: int,
    n_niches: int | None = None,
    preset: Any = "base",
    encoder: Mapping[str, Any] | None = None,
    **parts: Any,
) -> dict[str, Any]:
    """Average what the untrained encoder is given: gene ⊙ log1p(count), without rank, segment and transformer."""
    from scjepa.models._embed import embed

    product = {"value": "bound", "value_scale": "log1p", "rank": "none", "segment": "none", "n_layers": 1}
    model = _model(adata, seed, preset, {**parts, "encoder": {**(encoder or {}), **product}})
    embedding = np.empty((adata.n_obs, model.config.encoder.width), dtype=np.float32)
    embed(_InputAlone(model.module), model._source(None), embedding, scale="neighborhood", encoder="target")  # type: ignore[arg-type]
    return {"embedding": embedding, "info": _info(model)}


def precomputed(
    adata: AnnData,
    *,
    seed: int,
    n_niches: int | None = None,
    obsm_key: str | None = None,
    obs_key: str | None = None,
) -> dict[str, Any]:
    """Take an embedding of ``obsm``, clusters of ``obs``, or both."""
    if obsm_key is None and obs_key is None:
        raise MethodError("Name what was computed: options={'obsm_key': ...} or {'obs_key': ...}.")
    return {
        "embedding": None if obsm_key is None else np.asarray(adata.obsm[obsm_key]),
        "clusters": None if obs_key is None else np.asarray(adata.obs[obs_key]),
        "info": {"obsm_key": obsm_key, "obs_key": obs_key},
    }
