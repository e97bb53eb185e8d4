"""A model on disk: ``model.json`` and ``weights.safetensors``, no pickle, never half-written, with checksums."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from anndata import AnnData
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from scjepa._core.files import sum_of_facts, sum_of_file, whole
from scjepa._core.options import unknown_name
from scjepa._core.plain import Facts, plain
from scjepa.pretrained import MODEL_FILE, README_FILE, WEIGHTS_FILE, Card
from scjepa.training.collapse import RATIO

if TYPE_CHECKING:
    from scjepa.models.base import JEPAModel

Weights = dict[str, Tensor]

ADATA_FILE = "adata.h5ad"
FORMAT = 2
"""Since 2 the files carry checksums."""

_WEIGHTS_SUM, _SUM = "weights_sha256", "sha256"
"""Entries of the facts: the checksum of the weights' file, and that of all other entries."""

STATISTICS = "statistics"
"""The entry of the facts that holds arrays: they are written beside the weights, with this prefix and a dot."""


def write_model(
    folder: str | Path,
    facts: Facts,
    weights: Mapping[str, Tensor],
    adata: AnnData | None = None,
    *,
    overwrite: bool,
    texts: Mapping[str, str] | None = None,
) -> None:
    """Write a model to ``folder``: first beside it, then moved in place in one step.

    Parameters
    ----------
    facts
        What JSON can hold, and under ``"statistics"`` NumPy arrays by name.
    weights
        Tensors of the module.
    texts
        Further files by name.

    Raises
    ------
    FileExistsError
        If the folder exists and ``overwrite`` is false, or it exists and is not a saved model.
    """
    folder = Path(folder)
    if folder.exists():
        if not overwrite:
            raise FileExistsError(f"{folder} exists. Pass overwrite=True to replace it, or name another folder.")
        if not folder.is_dir() or (any(folder.iterdir()) and not (folder / MODEL_FILE).is_file()):
            raise FileExistsError(f"{folder} is not a saved model, so it is not replaced. Name another folder.")
    with whole(folder) as draft:
        draft.mkdir()
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
        for name, array in facts.get(STATISTICS, {}).items():
            # A copy: pandas gives arrays that are read-only.
            tensors[f"{STATISTICS}.{name}"] = torch.tensor(array).contiguous()
        told = {name: plain(value, arrays=True) for name, value in facts.items() if name != STATISTICS}
        save_file(tensors, draft / WEIGHTS_FILE)
        told = seal({**told, "format": FORMAT}, draft / WEIGHTS_FILE)
        (draft / MODEL_FILE).write_text(json.dumps(told, indent=1), encoding="utf-8")
        for name, text in (texts or {}).items():
            (draft / name).write_text(text, encoding="utf-8")
        if adata is not None:
            adata.write_h5ad(draft / ADATA_FILE)
        mode = (draft / MODEL_FILE).stat().st_mode & 0o666
        for path in draft.iterdir():
            path.chmod(mode)  # what new files have here, whatever wrote them


def seal(facts: Facts, weights_file: Path) -> Facts:
    """Return ``facts`` with the checksum of the weights' file, and that of the facts themselves."""
    sealed = {**facts, _WEIGHTS_SUM: sum_of_file(weights_file)}
    return {**sealed, _SUM: sum_of_facts(sealed, _SUM)}


def read_model(folder: str | Path, model_name: str) -> tuple[Facts, Weights]:
    """Read what :func:`write_model` wrote: the facts, their statistics among them, and the weights.

    Raises
    ------
    FileNotFoundError
        If the folder or one of its files is missing.
    ValueError
        If the files are damaged, belong to another model class, or were written by a newer version.
    """
    folder = Path(folder)
    for name in (MODEL_FILE, WEIGHTS_FILE):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder} holds no {name}: it is not a folder that model.save() wrote.")
    facts = _read_facts(folder / MODEL_FILE, model_name)
    try:
        weights = load_file(folder / WEIGHTS_FILE)
    except SafetensorError as error:
        raise ValueError(f"{folder / WEIGHTS_FILE} is damaged or truncated: {error}.") from error
    if facts["format"] >= 2 and sum_of_file(folder / WEIGHTS_FILE) != facts.get(_WEIGHTS_SUM):
        raise ValueError(
            f"{folder / WEIGHTS_FILE} is damaged, or belongs to another model: its checksum is not the one in "
            f"{MODEL_FILE}. Copy or download the folder again."
        )
    facts[STATISTICS] = {
        name.removeprefix(f"{STATISTICS}."): weights.pop(name).numpy()
        for name in list(weights)
        if name.startswith(f"{STATISTICS}.")
    }
    return facts, {name: w.float() if w.is_floating_point() else w for name, w in weights.items()}


def _read_facts(file: Path, model_name: str) -> Facts:
    """Read ``model.json`` and check that it is ours, of this class, not newer than this version, and whole."""
    try:
        facts = json.loads(file.read_bytes())
    except ValueError as error:  # not JSON, or not even text
        raise ValueError(f"{file} is damaged: {error}.") from error
    if not isinstance(facts, dict) or not isinstance(facts.get("format"), int) or "model" not in facts:
        raise ValueError(f"{file} is damaged, or foreign: scjepa's has the entries 'model' and 'format'.")
    if facts["model"] != model_name:
        raise ValueError(f"{file.parent} holds a {facts['model']!r} model; load it with that class, not {model_name}.")
    if facts["format"] > FORMAT:
        raise ValueError(
            f"{file.parent} was written by a newer scjepa ({facts.get('scjepa_version')}). Upgrade scjepa."
        )
    if (facts["format"] >= 2 or _SUM in facts) and facts.get(_SUM) != sum_of_facts(facts, _SUM):
        raise ValueError(
            f"{file} is damaged, or was changed by hand: its checksum does not fit. Copy or download the folder again."
        )
    return facts


def copied(model: JEPAModel) -> tuple[Facts, Weights]:
    """Return facts and weights of a model in memory, none of them shared with it."""
    weights = {name: w.detach().cpu().clone() for name, w in model._weights().items()}
    return copy.deepcopy(model.facts()), weights


def with_both_encoders(weights: Mapping[str, Tensor]) -> Weights:
    """Return weights with a context encoder; a checkpoint keeps the target encoder alone, and training begins there."""
    if any(name.startswith("context.") for name in weights):
        return dict(weights)
    twins = {f"context.{n.removeprefix('target.')}": w for n, w in weights.items() if n.startswith("target.")}
    return {**twins, **weights}


def load_weights(module: nn.Module, weights: Mapping[str, Tensor], folder: str | Path) -> None:
    """Load weights into ``module``; every tensor must be there with its shape."""
    expected = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    if expected != found:
        wrong = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
        raise ValueError(
            f"The weights in {folder} do not fit the configuration saved beside them: {wrong[0]} is "
            f"{found.get(wrong[0])}, expected {expected.get(wrong[0])} ({len(wrong)} tensors differ)."
        )
    module.load_state_dict(dict(weights))


# -- checkpoints for others ------------------------------------------------------------------------------------------

_DTYPES = {"float32": torch.float32, "float16": torch.float16}

_KEPT_HISTORY = ("effective_rank", "mean_cosine", "validation_loss")
"""The monitor's readings, so that a checkpoint can be diagnosed; the curves of every step stay behind."""


def write_checkpoint(
    model: JEPAModel, path: Path, card: Card | Mapping[str, object] | None, dtype: str, overwrite: bool
) -> None:
    """Write a model for others, as :meth:`scjepa.STJEPA.save_pretrained` says."""
    if dtype not in _DTYPES:
        raise ValueError(unknown_name("dtype", dtype, _DTYPES))
    model._warn_if_untrained()
    card = Card.from_any(model.card if card is None else card, path.name)
    card = card if card.created else replace(card, created=date.today().isoformat())
    facts = {name: value for name, value in model.facts().items() if name not in model._kept_home}
    facts["card"] = card.to_dict()
    history = facts["history"].items()
    facts["history"] = {name: curve for name, curve in history if name in _KEPT_HISTORY or name.endswith(RATIO)}
    state = model.module.state_dict().items()
    weights = {name: _stored(name, w, _DTYPES[dtype]) for name, w in state if not name.startswith("context.")}
    readme = card.to_markdown(type(model).__name__, _table_of_card(model, facts, dtype))
    write_model(path, facts, weights, overwrite=overwrite, texts={README_FILE: readme})


def _table_of_card(model: JEPAModel, facts: Facts, dtype: str) -> Facts:
    encoder = model.config.encoder
    technologies = facts.get("panels", {}).get("technologies")
    return {
        "class": type(model).__name__,
        "genes": len(model.vocabulary),
        **({} if technologies is None else {"technologies": ", ".join(technologies)}),
        "n_latent": encoder.width,
        "encoder": f"{encoder.n_layers} layers, {model.module.parameter_counts()['encoder']:,} parameters, {dtype}",
        "tokens": str(model.config.tokens),
        "trained for": f"{model.n_steps_:,} steps",
        "made with": f"scjepa {facts['scjepa_version']}, torch {facts['torch_version']}",
    }


def _stored(name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    stored = tensor.detach().cpu().to(dtype) if tensor.is_floating_point() else tensor
    if not torch.isfinite(stored).all() and torch.isfinite(tensor).all():
        raise ValueError(f"The weights in {name} are too large for {dtype}: save with dtype='float32'.")
    return stored
