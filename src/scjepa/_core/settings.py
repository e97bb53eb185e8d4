"""Package-wide settings."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path


def _from_environment(name: str) -> Path | None:
    value = os.environ.get(name)
    return Path(value) if value else None


@dataclass
class Settings:
    """Settings that hold for the session, set by attribute: ``scjepa.settings.data_dir = "data"``.

    Attributes
    ----------
    data_dir
        Folder that :func:`scjepa.datasets.load` looks in. Default: the environment variable ``SCJEPA_DATA``, else
        unset.
    cache_dir
        Folder in which models keep their token and neighbor tables, for data whose tables do not fit in memory or take
        long to build: they are written there once and mapped into memory from then on, with the same results. Several
        runs may share it; anything in it may be deleted. Default: the environment variable ``SCJEPA_CACHE``, else
        unset, and tables are built anew in each session.
    progress_bar
        Whether loops that take more than two seconds show a bar. Default ``None``: in a terminal and in a notebook,
        unless scvi-tools was told to be quiet (``scvi.settings.verbosity`` above ``logging.INFO``).
    """

    data_dir: Path | str | None = field(default_factory=lambda: _from_environment("SCJEPA_DATA"))
    cache_dir: Path | str | None = field(default_factory=lambda: _from_environment("SCJEPA_CACHE"))
    progress_bar: bool | None = None


settings = Settings()
