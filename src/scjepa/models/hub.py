"""Checkpoints that travel: what embedding and fine-tuning need, with a card for people."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any, Self

import torch
from anndata import AnnData

from scjepa._core.options import unknown_name
from scjepa.models import store as _store
from scjepa.models.reference import ReferenceMixin
from scjepa.pretrained import README_FILE, Card
from scjepa.training.collapse import RATIO

_DTYPES = {"float32": torch.float32, "float16": torch.float16}

_KEPT_HISTORY = ("effective_rank", "mean_cosine", "validation_loss")
"""The monitor's readings beside ratios of losses, so that a checkpoint can be diagnosed; other curves stay behind."""


class PretrainedMixin(ReferenceMixin):
    """``save_pretrained`` and ``from_pretrained``."""

    def save_pretrained(
        self,
        path: str | os.PathLike[str],
        card: Card | Mapping[str, Any] | None = None,
        *,
        dtype: str = "float32",
        overwrite: bool = False,
    ) -> None:
        """Write a checkpoint for others: ``model.json``, ``weights.safetensors`` and ``README.md``, no pickle.

        It holds the target encoder, which gives the embeddings; the predictor and heads, with which fine-tuning goes
        on; configuration, vocabulary, panels, statistics of normalizations, versions, the monitor's readings, the card,
        and checksums. It does not hold the context encoder (fine-tuning begins with a copy of the target encoder), the
        state of the optimizer or any cell. Of a model of width 64 and two layers with 2,000 genes that is 1.2 MB.
        To stop and go on with the very same training, use :meth:`save` and ``checkpoint_dir``.

        Parameters
        ----------
        path
            Folder to make; its name is the checkpoint's where the card has none.
        card
            A :class:`scjepa.pretrained.Card` or a mapping of its fields. Default: the card of the checkpoint that the
            model came from, if any. A date is filled in.
        dtype
            ``"float32"``: embeddings of the loaded model are the same bit for bit. ``"float16"``: half the size, and
            embeddings differ by about one part in a thousand.
        overwrite
            Replace a saved model that is there; any other folder is refused.

        Raises
        ------
        FileExistsError
            If the folder exists and may not be replaced. Nothing is written then.
        ValueError
            If a field of the card is not known, or a weight is too large for ``"float16"``.

        Examples
        --------
        >>> model.save_pretrained("my-tissue", card={"description": "...", "license": "CC-BY-4.0"})
        """
        if dtype not in _DTYPES:
            raise ValueError(unknown_name("dtype", dtype, _DTYPES))
        self._warn_if_untrained()
        card = Card.from_any(self.card if card is None else card, Path(path).name)
        card = card if card.created else replace(card, created=date.today().isoformat())
        facts = {**self._facts_to_share(), "card": card.to_dict()}
        facts["history"] = {
            name: curve for name, curve in facts["history"].items() if name in _KEPT_HISTORY or name.endswith(RATIO)
        }
        weights = {
            name: _stored(name, tensor, _DTYPES[dtype])
            for name, tensor in self.module.state_dict().items()
            if not name.startswith("context.")
        }
        readme = card.to_markdown(type(self).__name__, self._table_of_card(facts, dtype))
        _store.write_model(Path(path), facts, weights, overwrite=overwrite, texts={README_FILE: readme})

    def _facts_to_share(self) -> dict[str, Any]:
        """Return what is known of the model, without what stays with its data."""
        return self._facts()

    def _table_of_card(self, facts: Mapping[str, Any], dtype: str) -> dict[str, Any]:
        tokens, encoder = self.config.tokens, self.config.encoder
        return {
            "class": type(self).__name__,
            "genes": len(self.vocabulary),
            "n_latent": encoder.width,
            "encoder": f"{encoder.n_layers} layers, {self.module.parameter_counts()['encoder']:,} parameters, {dtype}",
            "tokens": str(tokens),
            "trained for": f"{self.n_steps_:,} steps",
            "made with": f"scjepa {facts['scjepa_version']}, torch {facts['torch_version']}",
        }

    @classmethod
    def from_pretrained(
        cls,
        name: str | os.PathLike[str],
        adata: AnnData,
        *,
        freeze: str = "none",
        seed: int | None = None,
        accelerator: str = "auto",
        device: int | str = "auto",
    ) -> Self:
        """Return a pretrained model on ``adata``, ready to embed it or to be fine-tuned on it.

        The same as :meth:`load_query_data` with the checkpoint as reference: genes and technologies that the checkpoint
        does not know are taken in.

        Parameters
        ----------
        name
            A folder that :meth:`save_pretrained` or :meth:`save` wrote; a checkpoint that comes with the package
            (:func:`scjepa.pretrained.available`); or ``"organization/name"`` on the Hugging Face hub, which takes
            ``huggingface_hub`` and, the first time, a network.
        adata, freeze, seed, accelerator, device
            As in :meth:`load_query_data`.

        Returns
        -------
        STJEPA
            The model; ``model.card`` says what it was trained on.

        Raises
        ------
        FileNotFoundError
            If there is no such checkpoint.
        ImportError
            If the name is one of the hub's and ``huggingface_hub`` is not installed.
        ValueError
            If the files are damaged, truncated, foreign or newer than this version, no gene is the checkpoint's, or the
            data cannot be used.

        Examples
        --------
        >>> sq.gr.spatial_neighbors_knn(adata, n_neighs=10)
        >>> model = scjepa.STJEPA.from_pretrained("mouse-brain-small", adata)
        >>> adata.obsm["X_stjepa"] = model.get_latent_representation()
        """
        return cls._taken_to(adata, name, freeze, seed, accelerator, device)


def _stored(name: str, tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    stored = tensor.detach().cpu().to(dtype) if tensor.is_floating_point() else tensor
    if not torch.isfinite(stored).all() and torch.isfinite(tensor).all():
        raise ValueError(f"The weights in {name} are too large for {dtype}: save with dtype='float32'.")
    return stored
