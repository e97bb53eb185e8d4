"""The command line: ``scjepa info | fit | embed | prepare | niches | annotate | ...``, files in and files out."""

from __future__ import annotations

from scjepa.cli.options import Command, UsageError
from scjepa.cli.program import COMMANDS, build_parser, main

__all__ = ["COMMANDS", "Command", "UsageError", "build_parser", "main"]
