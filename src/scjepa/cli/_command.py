"""What a subcommand is, and the error of one that was called in a way it does not have."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass


class UsageError(ValueError):
    """The command line itself is wrong, whatever the files hold: exit code 2."""


@dataclass(frozen=True)
class Command:
    """A subcommand.

    Attributes
    ----------
    name
        What follows ``scjepa``.
    summary
        One line for ``scjepa --help``.
    description
        What it does, reads and writes, for its own ``--help``.
    examples
        Lines of calls, shown below the options.
    add_options
        Adds its arguments to a parser. Runs for every ``--help``, so it imports nothing heavy.
    run
        Does the work. Imports what it needs itself.
    """

    name: str
    summary: str
    description: str
    examples: tuple[str, ...]
    add_options: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], None]
