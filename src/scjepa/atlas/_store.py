"""An atlas on disk: a folder of safetensors and JSON with checksums, whole or not at all, without pickle."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from scjepa._core.files import sum_of_facts, sum_of_file, whole
from scjepa.tl import NicheReadout

FORMAT = 2
"""Of the folder; another one is refused: distances of format 1 were of single cells."""

FACTS_FILE, CELLS_FILE, READOUT_FILE, CARD_FILE = "atlas.json", "cells.safetensors", "readout.safetensors", "README.md"
_SUM = "sha256"

Facts = dict[str, Any]


def write_atlas(
    folder: Path, facts: Facts, arrays: Mapping[str, np.ndarray], readout: NicheReadout, card: str, *, overwrite: bool
) -> None:
    """Write an atlas to a folder.

    Raises
    ------
    FileExistsError
        If the folder exists and ``overwrite`` is false, or it is something else than an atlas.
    """
    from safetensors.numpy import save_file

    if folder.exists():
        if not overwrite:
            raise FileExistsError(f"{folder} exists. Pass overwrite=True to replace it, or name another folder.")
        if not (folder / FACTS_FILE).is_file():
            raise FileExistsError(f"{folder} is not a saved atlas, so it is not replaced. Name another folder.")
    with whole(folder) as draft:
        draft.mkdir()
        save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, draft / CELLS_FILE)
        readout.save(draft / READOUT_FILE)
        sums = {name: sum_of_file(draft / name) for name in (CELLS_FILE, READOUT_FILE)}
        told = {"atlas": "NicheAtlas", "format": FORMAT, **facts, "files": sums}
        text = json.dumps({**told, _SUM: sum_of_facts(told, _SUM)}, indent=1, ensure_ascii=False)
        (draft / FACTS_FILE).write_text(text, encoding="utf-8")
        (draft / CARD_FILE).write_text(card, encoding="utf-8")


def read_atlas(folder: Path) -> tuple[Facts, dict[str, np.ndarray], NicheReadout]:
    """Read what :func:`write_atlas` wrote.

    Raises
    ------
    FileNotFoundError
        If the folder or one of its files is missing.
    ValueError
        If a file is damaged, is of something else, or was written by another version.
    """
    from safetensors.numpy import load_file

    missing = [name for name in (FACTS_FILE, CELLS_FILE, READOUT_FILE) if not (folder / name).is_file()]
    if missing:
        raise FileNotFoundError(f"{folder} holds no {missing[0]}: it is not a folder that NicheAtlas.save wrote.")
    facts = _facts_in(folder / FACTS_FILE)
    for name, known in facts["files"].items():
        if sum_of_file(folder / name) != known:
            raise ValueError(
                f"{folder / name} is damaged, or belongs to another atlas: its checksum is not the one in "
                f"{FACTS_FILE}. Copy the folder again."
            )
    return facts, load_file(folder / CELLS_FILE), NicheReadout.load(folder / READOUT_FILE)


def _facts_in(file: Path) -> Facts:
    try:
        facts = json.loads(file.read_bytes())
    except ValueError as error:  # not JSON, or not even text
        raise ValueError(f"{file} is damaged: {error}.") from error
    if not isinstance(facts, dict) or facts.get("atlas") != "NicheAtlas" or not isinstance(facts.get("format"), int):
        raise ValueError(f"{file} is damaged, or of something else: an atlas has the entries 'atlas' and 'format'.")
    if facts["format"] > FORMAT:
        raise ValueError(f"{file.parent} was written by a newer scjepa ({facts.get('scjepa')}). Upgrade scjepa.")
    if facts["format"] < FORMAT:
        raise ValueError(
            f"{file.parent} was written by an older scjepa ({facts.get('scjepa')}), which measured distances "
            "otherwise. Make the atlas anew: scjepa.NicheAtlas.fit(adata)."
        )
    if facts.get(_SUM) != sum_of_facts(facts, _SUM):
        raise ValueError(
            f"{file} is damaged, or was changed by hand: its checksum does not fit. Copy the folder again."
        )
    return facts
