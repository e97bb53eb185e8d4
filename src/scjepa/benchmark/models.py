"""ST-JEPA and the controls that share its input, as methods of a comparison of sections."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from anndata import AnnData

from scjepa._core import keys as _keys
from scjepa.benchmark.method import Arguments, Method, MethodError, Parts

if TYPE_CHECKING:
    from scjepa.stjepa.config import STJEPAConfig
    from scjepa.stjepa.model import STJEPA


def _model(adata: AnnData, seed: int, preset: str | STJEPAConfig, parts: Arguments) -> STJEPA:
    from scjepa.stjepa.model import STJEPA

    panel = _keys.PANEL if _keys.PANEL in adata.varm else None
    STJEPA.setup_anndata(adata, technology_key=_keys.TECHNOLOGY, library_key=_keys.SECTION, panel_key=panel)
    return STJEPA(adata, preset, seed=seed, **parts)


def _result(model: STJEPA, genes: Sequence[str] | None, contextual: bool = True) -> Parts:
    """Return the embeddings of both scales, from some of the genes or from all, and let go of the data."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="This model is not trained")
        near = model.get_latent_representation(genes=genes, contextual=contextual)
        cells = model.get_latent_representation(genes=genes, scale="cell", contextual=contextual)
    # scvi-tools keeps the data of every model for as long as the session lasts; a comparison makes hundreds.
    model.deregister_manager(model.adata)
    parts = {f"config.{name}": part for name, part in model.config.to_dict().items()}
    info = {"steps": model.n_steps_, "verdict": model.diagnose().verdict, **parts}
    return {"embedding": near, "cell_embedding": cells, "info": info}


def stjepa(
    adata: AnnData,
    *,
    seed: int,
    n_niches: int | None = None,
    preset: str | STJEPAConfig = "base",
    accelerator: str = "auto",
    genes: Sequence[str] | None = None,
    **parts: Arguments,
) -> Parts:
    """Train ST-JEPA on the data and embed its neighborhoods; ``parts`` change the preset."""
    model = _model(adata, seed, preset, parts)
    model.train(accelerator=accelerator, progress_bar=False)
    return _result(model, genes)


def untrained(
    adata: AnnData,
    *,
    seed: int,
    n_niches: int | None = None,
    preset: str | STJEPAConfig = "base",
    genes: Sequence[str] | None = None,
    **parts: Arguments,
) -> Parts:
    """Embed neighborhoods with the encoder's initial weights."""
    return _result(_model(adata, seed, preset, parts), genes)


def pooled_input(
    adata: AnnData,
    *,
    seed: int,
    n_niches: int | None = None,
    preset: str | STJEPAConfig = "base",
    genes: Sequence[str] | None = None,
    encoder: Arguments | None = None,
    **parts: Arguments,
) -> Parts:
    """Average what the untrained encoder is given: gene ⊙ log1p(count), without rank, segment and transformer."""
    product = {"value": "bound", "value_scale": "log1p", "rank": "none", "segment": "none", "n_layers": 1}
    model = _model(adata, seed, preset, {**parts, "encoder": {**(encoder or {}), **product}})
    return _result(model, genes, contextual=False)


def precomputed(
    adata: AnnData, *, seed: int, n_niches: int | None = None, obsm_key: str | None = None, obs_key: str | None = None
) -> Parts:
    """Take an embedding of ``obsm``, clusters of ``obs``, or both."""
    if obsm_key is None and obs_key is None:
        raise MethodError("Name what was computed: options={'obsm_key': ...} or {'obs_key': ...}.")
    return {
        "embedding": None if obsm_key is None else np.asarray(adata.obsm[obsm_key]),
        "clusters": None if obs_key is None else np.asarray(adata.obs[obs_key]),
        "info": {"obsm_key": obsm_key, "obs_key": obs_key},
    }


_OURS: Parts = {"options": ("preset", "tokens", "encoder", "genes"), "packages": ("scjepa", "torch")}

STJEPA_METHODS: Mapping[str, Method] = {
    "stjepa": Method(
        "ST-JEPA, trained on the data; its neighborhood embeddings",
        stjepa,
        options=(*_OURS["options"], "masking", "objective", "training", "accelerator"),
        packages=_OURS["packages"],
        group="models",
    ),
    "untrained": Method("the same encoder with its random initial weights", untrained, group="controls", **_OURS),
    "pooled_input": Method(
        "mean over a neighborhood of gene vector ⊙ log1p(count), gene vectors at random: the encoder's input",
        pooled_input,
        group="controls",
        **_OURS,
    ),
    "precomputed": Method(
        "an embedding or clusters that are in the data",
        precomputed,
        "options={'obsm_key': ...} or {'obs_key': ...}",
        options=("obsm_key", "obs_key"),
        obs_options=("obs_key",),
        obsm_options=("obsm_key",),
        seeded=False,
        gives=("embedding", "clusters"),
        group="",
    ),
}
"""Methods by name."""
