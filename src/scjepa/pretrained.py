"""Checkpoints by name: those in the package, folders and the Hugging Face hub, and the card that each carries.

No model is built here: ``save_pretrained`` and ``from_pretrained`` of :class:`scjepa.STJEPA` and
:class:`scjepa.CellJEPA` do that.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scjepa._core.options import unknown_name
from scjepa._core.plain import plain
from scjepa.tokens.vocabulary import Vocabulary

if TYPE_CHECKING:
    import pandas as pd

MODEL_FILE = "model.json"
WEIGHTS_FILE = "weights.safetensors"
README_FILE = "README.md"

SHIPPED = Path(__file__).parent / "checkpoints"
"""Folder of the checkpoints that come with the package, one folder each."""

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")

_FIELDS = {"STJEPA": "spatial-transcriptomics"}
"""Fields of models by class; of others it is single cells."""

__all__ = ["Card", "available", "locate", "read_card", "vocabulary"]


@dataclass(frozen=True)
class Card:
    """What one has to know of a checkpoint before using it.

    Parameters
    ----------
    name
        Its name.
    description
        What it is for, in a sentence or two.
    data
        The data it was trained on, a mapping for each set, such as
        ``{"name": "V1", "technology": "STARmap", "cells": 1207, "genes": 1020, "source": "Wang 2018"}``.
    scores
        Scores, a mapping for each row, such as ``{"set": "osmFISH", "method": "zero-shot", "nmi": 0.6}``; say which
        data the model had seen.
    license
        License of the weights, as SPDX writes it.
    limitations
        What it is not good for.
    citation
        What to cite.
    authors
        Who made it.
    created
        Date, ``"2026-01-31"``.

    Raises
    ------
    ValueError, TypeError
        If there is no name, or a field is not of its type.
    """

    name: str
    description: str = ""
    data: Sequence[Mapping[str, object]] = ()
    scores: Sequence[Mapping[str, object]] = ()
    license: str = ""
    limitations: str = ""
    citation: str = ""
    authors: str = ""
    created: str = ""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in ("data", "scores"):
                rows = () if isinstance(value, str | Mapping) else tuple(value)
                if not all(isinstance(row, Mapping) for row in rows) or isinstance(value, str | Mapping):
                    raise TypeError(f"Card.{field.name} must be a list of mappings, one for each row, found {value!r}.")
                object.__setattr__(self, field.name, tuple(plain(row, arrays=True) for row in rows))
            elif not isinstance(value, str):
                raise TypeError(f"Card.{field.name} must be text, found {value!r}.")
        if not self.name.strip():
            raise ValueError("Card.name is empty. Name the checkpoint: Card(name='mouse-brain-small', ...).")

    @classmethod
    def from_any(cls, card: Card | Mapping[str, object] | None, name: str) -> Card:
        """Return a card from a card, a mapping of its fields, or nothing; ``name`` where none is given.

        Raises
        ------
        ValueError
            If a field is not known.
        """
        if isinstance(card, cls):
            return card
        if card is not None and not isinstance(card, Mapping):
            raise TypeError(f"card must be a scjepa.pretrained.Card or a mapping of its fields, found {card!r}.")
        known = [field.name for field in fields(cls)]
        for field_name in card or {}:
            if field_name not in known:
                raise ValueError(unknown_name("field of a card", field_name, known))
        given: dict[str, Any] = {"name": name, **(card or {})}
        return cls(**given)

    def to_dict(self) -> dict[str, object]:
        """Return plain values, ready for JSON."""
        return {**asdict(self), "data": list(self.data), "scores": list(self.scores)}

    def to_markdown(self, model: str = "STJEPA", facts: Mapping[str, object] | None = None) -> str:
        """Return the card as a README that people and the Hugging Face hub read.

        Parameters
        ----------
        model
            Class that the checkpoint is of.
        facts
            What the table of the model says, by name.
        """
        key, tags = f"X_{model.lower()}", [_FIELDS.get(model, "single-cell"), "jepa"]
        front = {"library_name": "scjepa", "license": self.license, "tags": tags}
        lines = ["---", *(f"{name}: {json.dumps(value)}" for name, value in front.items() if value), "---", ""]
        lines += [f"# {self.name}", ""]
        if self.description:
            lines += [self.description, ""]
        lines += ["```python", "import scjepa", "", f'model = scjepa.{model}.from_pretrained("{self.name}", adata)']
        lines += [f'adata.obsm["{key}"] = model.get_latent_representation()', "```", ""]
        if facts:
            lines += ["## Model", "", *_table(["", ""], facts.items()), ""]
        for title, rows in (("Trained on", self.data), ("Scores", self.scores)):
            columns = list(dict.fromkeys(name for row in rows for name in row))
            if rows:
                lines += [f"## {title}", "", *_table(columns, ([row.get(c, "") for c in columns] for row in rows)), ""]
        for title in ("Limitations", "License", "Citation", "Authors", "Created"):
            if text := getattr(self, title.lower()):
                lines += [f"## {title}", "", text, ""]
        return "\n".join(lines)


def _table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    lines = [columns, ["---"] * len(columns), *([_cell(value) for value in row] for row in rows)]
    return ["| " + " | ".join(line) + " |" for line in lines]


def _cell(value: object) -> str:
    text = f"{value:.3f}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)
    return text.replace("|", "\\|").replace("\n", " ")


def shipped() -> dict[str, Path]:
    """Return the folders of the checkpoints that come with the package, by name."""
    return {path.parent.name: path.parent for path in sorted(SHIPPED.glob(f"*/{MODEL_FILE}"))}


def read_card(folder: str | Path) -> tuple[Card, dict[str, Any]]:
    """Return the card in a checkpoint's folder, or of one that comes with the package, and the facts of the model.

    Raises
    ------
    FileNotFoundError
        If the folder holds no model.
    ValueError
        If the file is damaged, or was not written by ``save_pretrained``.
    """
    file = shipped().get(str(folder), Path(folder)) / MODEL_FILE
    if not file.is_file():
        raise FileNotFoundError(f"{folder} holds no {MODEL_FILE}: it is not a folder that save_pretrained() wrote.")
    try:
        facts = json.loads(file.read_bytes())
    except ValueError as error:
        raise ValueError(f"{file} is damaged: {error}.") from error
    if not isinstance(facts, dict) or not isinstance(facts.get("card"), dict):
        raise ValueError(f"{file} carries no card: save_pretrained() writes one, save() does not.")
    return Card.from_any(facts["card"], Path(folder).name), facts


def vocabulary(name: str | os.PathLike[str]) -> Vocabulary:
    """Return the genes that a saved model or a checkpoint knows, without loading it.

    Parameters
    ----------
    name
        As in :func:`locate`.

    Raises
    ------
    FileNotFoundError, ValueError
        If there is no such model, or its file is damaged.

    Examples
    --------
    >>> genes = scjepa.pretrained.vocabulary("mouse-brain-small")
    >>> adata.var_names = genes.renamed(adata.var_names)  # doctest: +SKIP
    """
    file = locate(name) / MODEL_FILE
    try:
        return Vocabulary(json.loads(file.read_bytes())["vocabulary"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file} is damaged: {error}.") from error


def available() -> pd.DataFrame:
    """Return the checkpoints that come with the package.

    Returns
    -------
    pandas.DataFrame
        Index ``name``; columns ``model`` (the class), ``genes``, ``technologies``, ``n_latent``, ``megabytes`` (on
        disk), ``license`` and ``description``.
    """
    import pandas as pd

    rows = {}
    for name, folder in shipped().items():
        card, facts = read_card(folder)
        rows[name] = {
            "model": facts["model"],
            "genes": len(facts["vocabulary"]),
            "technologies": ", ".join(facts.get("panels", {}).get("technologies", ())),
            "n_latent": facts["config"]["encoder"]["width"],
            "megabytes": round(sum(file.stat().st_size for file in folder.iterdir()) / 1e6, 2),
            "license": card.license,
            "description": card.description,
        }
    columns = ["model", "genes", "technologies", "n_latent", "megabytes", "license", "description"]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns).rename_axis("name")


def locate(name: str | os.PathLike[str]) -> Path:
    """Return the folder of a checkpoint.

    Parameters
    ----------
    name
        A folder that holds a model; the name of a checkpoint that comes with the package (:func:`available`); or
        ``"organization/name"``, a repository on the Hugging Face hub, which is downloaded once and kept in its cache.
        They are tried in this order.

    Raises
    ------
    FileNotFoundError
        If there is no such checkpoint, or the hub cannot be reached and its cache does not hold it.
    ImportError
        If the name is one of the hub's and ``huggingface_hub`` is not installed.
    """
    folder = Path(name).expanduser()
    if (folder / MODEL_FILE).is_file():
        return folder
    there = shipped()
    if str(name) in there:
        return there[str(name)]
    if folder.exists():
        what = "a file, not a folder" if folder.is_file() else f"a folder without {MODEL_FILE}"
        raise FileNotFoundError(
            f"{name} is {what}: not a checkpoint. Name the folder that save() or save_pretrained() made."
        )
    if _HUB_ID.fullmatch(str(name)) and not str(name).startswith("."):
        return _from_hub(str(name), there)
    raise FileNotFoundError(
        f"There is no folder {str(name)!r}. {unknown_name('checkpoint', name, there)} "
        "Or name a repository of the Hugging Face hub, 'organization/name'."
    )


def _from_hub(name: str, there: Mapping[str, Path]) -> Path:
    """Download a repository of the hub, or find it in the hub's cache."""
    known = f"Checkpoints that come with the package: {', '.join(there) or 'none'}."
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise ImportError(
            f"There is no folder {name!r}; to look for it on the Hugging Face hub, huggingface_hub is needed: "
            f"pip install huggingface_hub. {known}"
        ) from error
    try:
        return Path(snapshot_download(repo_id=name, allow_patterns=[MODEL_FILE, WEIGHTS_FILE, README_FILE]))
    except Exception as error:
        raise FileNotFoundError(
            f"There is no folder {name!r}, and the Hugging Face hub did not give it ({type(error).__name__}: "
            f"{str(error).splitlines()[0] if str(error) else 'no reason given'}). Check the name; without a network, "
            f"download the repository elsewhere and name its folder. {known}"
        ) from error
