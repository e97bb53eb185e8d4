"""What a saved model is, in words."""

from __future__ import annotations

from pathlib import Path

import torch

from scjepa._config import STJEPAConfig
from scjepa.cli._models import SavedModel
from scjepa.cli.info import lines
from scjepa.nn import SpatialJEPA
from scjepa.tokens import Panels, Vocabulary
from scjepa.tokens.memory import readable_bytes
from scjepa.training import diagnose


def about_model(path: Path) -> str:
    """Return a report of the model in a folder."""
    saved = SavedModel(path)
    facts, config = saved.facts, STJEPAConfig.from_dict(saved.facts["config"])
    vocabulary, panels = Vocabulary(facts["vocabulary"]), Panels.from_dict(facts["panels"])
    with torch.device("meta"):  # counted without a number being drawn
        counts = SpatialJEPA(len(vocabulary), len(panels.technologies), config).parameter_counts()
    size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    keys = ", ".join(f"{name}={value!r}" for name, value in saved.keys.to_dict().items() if value is not None)
    history = {name: list(entry["value"]) for name, entry in facts["history"].items()}
    trained = f"{facts['n_steps']:,} steps" if facts["is_trained"] else "no: its weights are random"
    encoder, tokens = config.encoder, config.tokens
    return lines(
        f"{path}: {facts['model']} model, {readable_bytes(size)}, saved by scjepa {facts['scjepa_version']}",
        {
            "trained": trained,
            "genes": f"{len(vocabulary):,}, such as {', '.join(vocabulary.names[:5])}",
            "panels": panels.describe(vocabulary).split("\n", 1)[1].replace("\n  ", "\n").strip(),
            "reads": keys,
            "tokens": f"top {tokens.n_tokens} genes of a cell and its {tokens.n_neighbors} nearest neighbors",
            "encoder": f"{encoder.n_layers} layers, width {encoder.width}, {encoder.n_heads} heads; "
            f"value {encoder.value!r}, objective {config.objective.name!r}",
            "weights": f"{counts['encoder']:,} in the encoder, {counts['total']:,} in all",
            "seed": str(facts["seed"]),
            "diagnosis": str(diagnose(history, encoder.width)),
        },
    )
