"""What a saved model is, in words."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from scjepa.cli._models import SavedModel
from scjepa.cli._report import lines
from scjepa.stjepa.config import STJEPAConfig
from scjepa.stjepa.module import STJEPAModule
from scjepa.tokens import Panels, Vocabulary
from scjepa.tokens.choice import describe_tokens
from scjepa.tokens.memory import readable_bytes
from scjepa.training import diagnose


def about_model(name: str | Path) -> str:
    """Return a report of the model in a folder, or of a checkpoint by name."""
    saved = SavedModel(name)
    path = saved.path
    facts, config = saved.facts, STJEPAConfig.from_dict(saved.facts["config"])
    vocabulary, panels = Vocabulary(facts["vocabulary"]), Panels.from_dict(facts["panels"])
    card = facts.get("card") or {}
    with torch.device("meta"):  # counted without a number being drawn
        counts = STJEPAModule(len(vocabulary), len(panels.technologies), config).parameter_counts()
    size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    keys = ", ".join(f"{name}={value!r}" for name, value in saved.keys.to_dict().items() if value is not None)
    history = {name: list(entry["value"]) for name, entry in facts["history"].items()}
    trained = f"{facts['n_steps']:,} steps" if facts["is_trained"] else "no: its weights are random"
    encoder, tokens = config.encoder, config.tokens
    return lines(
        f"{name}: {facts['model']} model, {readable_bytes(size)}, saved by scjepa {facts['scjepa_version']}",
        {
            "what": str(card.get("description", "")),
            "trained": trained,
            "genes": f"{len(vocabulary):,}, such as {', '.join(vocabulary.names[:5])}",
            "panels": panels.describe(vocabulary).split("\n", 1)[1].replace("\n  ", "\n").strip(),
            "reads": keys,
            "tokens": f"{tokens}, {describe_tokens(tokens, vocabulary.names)}",
            "encoder": f"{encoder.n_layers} layers, width {encoder.width}, {encoder.n_heads} heads; "
            f"value {encoder.value!r}, objective {config.objective.name!r}",
            "weights": f"{counts['encoder']:,} in the encoder, {counts['total']:,} in all",
            "seed": str(facts["seed"]),
            "diagnosis": str(diagnose(history, encoder.width, config=config)),
            "trained on": "\n".join(map(_row, card.get("data", ()))),
            "scores": "\n".join(map(_row, card.get("scores", ()))),
            "not for": str(card.get("limitations", "")),
            "license": str(card.get("license", "")),
        },
    )


def _row(row: Mapping[str, Any]) -> str:
    """Return a row of a card's table in words."""
    return ", ".join(
        f"{name} {value:.3f}" if isinstance(value, float) else f"{name} {value}" for name, value in row.items()
    )
