"""The subcommands, in the order of ``scjepa --help``. A new one is a new file and a line here."""

from __future__ import annotations

from scjepa.cli import benchmark, benchmark_cells, demo, embed, fit, info, niches
from scjepa.cli._command import Command

COMMANDS: tuple[Command, ...] = (
    info.COMMAND,
    fit.COMMAND,
    embed.COMMAND,
    niches.COMMAND,
    benchmark.COMMAND,
    benchmark_cells.COMMAND,
    demo.COMMAND,
)
