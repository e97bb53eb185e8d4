"""The folder that holds the state of training: what is being trained there, so that nothing else is resumed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from scjepa.cli._outputs import drafted

RUN_FILE, STATE_FILE = "run.json", "last.ckpt"


def claim(folder: Path, *, resume: bool, **run: Any) -> None:
    """Note in ``folder`` what is being trained, or check that what is to be resumed is the same.

    Parameters
    ----------
    folder
        Folder of the state of training.
    resume
        Whether to go on from a state that is there.
    **run
        What the state depends on, by name: what JSON can hold.

    Raises
    ------
    FileExistsError
        If there is a state, and it is not to be resumed.
    ValueError
        If it is that of another run.
    """
    this = json.loads(json.dumps(run))  # tuples become lists, as they will be when read
    note = folder / RUN_FILE
    if not (folder / STATE_FILE).exists():
        with drafted(note) as draft:
            draft.write_text(json.dumps(this, indent=1))
        return
    if not resume:
        raise FileExistsError(
            f"{folder} holds the state of a run. Pass --resume to go on with it, or name another --checkpoint-dir."
        )
    try:
        before = json.loads(note.read_text())
    except (OSError, ValueError):
        before = {}
    differs = [name for name, value in this.items() if before.get(name) != value]
    if differs:
        raise ValueError(
            f"{folder} holds the state of another run: {' and '.join(differs)} differ. Give the same files and "
            "options, or name another --checkpoint-dir."
        )
