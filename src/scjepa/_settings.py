"""Package-wide settings."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path


def _data_dir_from_environment() -> Path | None:
    value = os.environ.get("SCJEPA_DATA")
    return Path(value) if value else None


@dataclass
class Settings:
    """Settings that hold for the session, set by attribute: ``scjepa.settings.data_dir = "data"``.

    Attributes
    ----------
    data_dir
        Folder that :func:`scjepa.datasets.load` looks in. Default: the environment variable ``SCJEPA_DATA``, else
        unset.
    """

    data_dir: Path | str | None = field(default_factory=_data_dir_from_environment)


settings = Settings()
