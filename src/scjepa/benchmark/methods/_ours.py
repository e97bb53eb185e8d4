"""ST-JEPA and the controls that share its input, as methods."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from anndata import AnnData

from scjepa._core import keys as _keys
from scjepa.benchmark.methods._result import MethodError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from scjepa.stjepa.model import STJEPA


def _model(adata: AnnData, seed: int, preset: Any, parts: Mapping[str, Any]) -> STJEPA:
    from scjepa.stjepa.model import STJEPA

    panel = _keys.PANEL if _keys.PANEL in adata.varm else None
    STJEPA.setup_anndata(adata, technology_key=_keys.TECHNOLOGY, library_key=_keys.SECTION, panel_key=panel)
    return STJEPA(adata, preset, seed=seed, **parts)


def _info(model: STJEPA) -> dict[str, Any]:
    parts = {f"config.{name}": part for name, part in model.config.to_dict().items()}
    return {"steps": model.n_steps_, "verdict": model.diagnose().verdict, **parts}


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
    return _result(model, genes)


def untrained(
    adata: AnnData, *, seed: int, n_niches: int | None = None, preset: Any = "base", genes: Any = None, **parts: Any
) -> dict[str, Any]:
    """Embed neighborhoods with the encoder's initial weights."""
    return _result(_model(adata, seed, preset, parts), genes)


def _result(model: STJEPA, genes: Any) -> dict[str, Any]:
    """Return the embeddings of both scales, from some of the genes or from all, and let go of the data."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="This model is not trained")
        embeddings = {
            "embedding": model.get_latent_representation(genes=genes),
            "cell_embedding": model.get_latent_representation(genes=genes, scale="cell"),
        }
    # scvi-tools keeps the data of every model for as long as the session lasts; a comparison makes hundreds.
    model.deregister_manager(model.adata)
    return {**embeddings, "info": _info(model)}


def pooled_input(
    adata: AnnData,
    *,
    seed: int,
    n_niches: int | None = None,
    preset: Any = "base",
    genes: Any = None,
    encoder: Mapping[str, Any] | None = None,
    **parts: Any,
) -> dict[str, Any]:
    """Average what the untrained encoder is given: gene ⊙ log1p(count), without rank, segment and transformer."""
    product = {"value": "bound", "value_scale": "log1p", "rank": "none", "segment": "none", "n_layers": 1}
    model = _model(adata, seed, preset, {**parts, "encoder": {**(encoder or {}), **product}})
    model.module.target.transformer = _passing_on()
    return _result(model, genes)


def _passing_on() -> nn.Module:
    """Return what stands in for the transformer: tokens leave as they came."""
    from torch import nn

    class PassingOn(nn.Module):
        def forward(self, tokens: Tensor, packing: Any) -> Tensor:
            return tokens

    return PassingOn()


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
