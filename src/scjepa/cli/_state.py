"""The folder that holds the state of training: what is being trained there, so that nothing else is resumed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from scjepa.cli._outputs import drafted

RUN_FILE, STATE_FILE, END_FILE = "run.json", "last.ckpt", "finished.json"


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
    if not (folder / STATE_FILE).exists() and not (resume and (folder / END_FILE).exists()):
        (folder / END_FILE).unlink(missing_ok=True)
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


def finish(folder: Path, out: Path) -> None:
    """Note in ``folder`` that the run has ended, and where its model is."""
    with drafted(folder / END_FILE) as draft:
        draft.write_text(json.dumps({"out": str(out.resolve())}))


def is_finished(folder: Path, out: Path) -> bool:
    """Return whether the run of ``folder`` has ended and its model is still at ``out``."""
    try:
        ended = json.loads((folder / END_FILE).read_text())
    except (OSError, ValueError):
        return False
    return ended == {"out": str(out.resolve())} and (out / "model.json").is_file()
