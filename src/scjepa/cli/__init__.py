"""The command line: ``scjepa info | fit | embed | niches | benchmark | demo``, files in and files out."""

from __future__ import annotations

from scjepa.cli._command import Command, UsageError
from scjepa.cli._main import build_parser, main
from scjepa.cli._registry import COMMANDS

__all__ = ["COMMANDS", "Command", "UsageError", "build_parser", "main"]
