"""What worker processes die of; it imports nothing heavy, for each process imports it."""

from __future__ import annotations

import os
from pathlib import Path


def dies_once(path: Path) -> str:
    """Return the name of a path; at ``dies`` the process ends, at ``once`` it does so the first time."""
    if path.name == "dies" or (path.name == "once" and not path.exists()):
        path.touch()
        os._exit(1)
    return path.name
