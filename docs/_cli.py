"""The tables of options of the command line, read off its parser."""

from __future__ import annotations

import argparse
from pathlib import Path

from scjepa.cli import COMMANDS, build_parser


def parts() -> dict[str, str]:
    """Return for each subcommand what the page includes: usage, and a table for each group of options."""
    return {f"cli-{command.name}": _of(_parser(command.name)) for command in COMMANDS}


def write(docs: Path) -> None:
    """Write what the page includes into the folder ``generated``."""
    folder = docs / "generated"
    folder.mkdir(exist_ok=True)
    for name, text in parts().items():
        path = folder / f"{name}.txt"
        if not path.is_file() or path.read_text() != text:  # an unchanged page is not built again
            path.write_text(text)


def _parser(name: str) -> argparse.ArgumentParser:
    (subparsers,) = (a for a in build_parser()._actions if isinstance(a, argparse._SubParsersAction))
    return subparsers.choices[name]


def _of(parser: argparse.ArgumentParser) -> str:
    positional = [_word(a) + (" ..." if a.nargs == "+" else "") for a in parser._actions if not a.option_strings]
    required = [f"{a.option_strings[0]} {_word(a)}" for a in parser._actions if a.option_strings and a.required]
    lines = ["```text", " ".join([parser.prog, *positional, *required, "[options]"]), "```", ""]
    lines += ["| option | |", "|---|---|"]
    for group in parser._action_groups:
        told = [a for a in group._group_actions if a.help != argparse.SUPPRESS]  # the others: scjepa fit --list-options
        actions = [a for a in told if not isinstance(a, argparse._HelpAction)]
        own = group.title not in ("positional arguments", "options")
        if actions and own:
            lines.append(f"| **{group.title}** | |")
        lines += [f"| {_name(a)} | {_help(a)} |" for a in actions]
    return "\n".join(lines) + "\n"


def _word(action: argparse.Action) -> str:
    return str(action.metavar or action.dest.upper())


def _name(action: argparse.Action) -> str:
    if not action.option_strings:
        return f"`{_word(action)}`"
    value = "" if action.nargs == 0 else f" {_word(action)}"
    if action.choices:
        value = " " + "\\|".join(map(str, action.choices))
    *others, last = action.option_strings
    return ", ".join([*(f"`{option}`" for option in others), f"`{last}{value}`"])


def _help(action: argparse.Action) -> str:
    return str(action.help or "").replace("|", "\\|")
