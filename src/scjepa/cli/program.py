"""The subcommands and their parser, and what becomes of a run: its exit code, its warnings, its interruption."""

from __future__ import annotations

import argparse
import logging
import os
import re
import select
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import NoReturn

from scjepa import __version__
from scjepa._core.meaning import nearest
from scjepa._core.options import unknown_name
from scjepa._core.settings import settings
from scjepa._core.squidpy import graph_call
from scjepa.cli import apply, benchmark, cohort, fit, info, niches
from scjepa.cli.options import Command, UsageError

OK, USER_ERROR, WRONG_USAGE, INTERRUPTED, CLOSED, TERMINATED = 0, 1, 2, 130, 141, 143
"""Exit codes. Anything that is none of these is a fault of the program, and comes with a traceback."""

COMMANDS: tuple[Command, ...] = (
    *(info.COMMAND, fit.COMMAND, apply.EMBED, cohort.COMMAND, niches.COMMAND, apply.PREDICT, apply.ANNOTATE),
    *(apply.PERTURB, benchmark.COMMAND, benchmark.DEMO),
)
"""The subcommands, in the order of ``scjepa --help``. A new one is a function and a word here."""

RENAMED = {"benchmark-cells": "scjepa benchmark --target FILE"}
"""Commands that there were, and what does the same."""

SHELLS = ("bash", "zsh", "tcsh")
"""Shells whose completion shtab writes."""

_SOON = 0.05
"""Seconds after which a termination that was lost is raised again."""

_USER_ERRORS = (ValueError, KeyError, TypeError, OSError, MemoryError)


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, with the nearest name that there is."""

    def error(self, message: str) -> NoReturn:
        """Print what is wrong in one line, and where all options are listed."""
        choice = re.fullmatch(r"argument (?:\S+/)?(\S+): invalid choice: '?(.*?)'? \(choose from (.*)\)", message)
        if choice is not None:
            what, word, names = choice.groups()
            kind = "command" if what == "COMMAND" else f"value of {what}"
            message = unknown_name(kind, word, re.findall(r"[^\s',]+", names))
        listed = "options" if " " in self.prog else "commands"
        end = "" if message.endswith((".", "?")) else "."
        self.exit(_tell(f"{message}{end} {self.prog} --help lists the {listed}.", WRONG_USAGE))


class _Completion(argparse.Action):
    """Print what makes a shell complete commands and options."""

    def __call__(self, parser: argparse.ArgumentParser, _: object, shell: object, *__: object) -> NoReturn:
        """Print the script, of shtab; paths are completed as files."""
        try:
            import shtab
        except ImportError:
            parser.error("--completion needs shtab: pip install shtab")
        for each in _with_subparsers(parser):
            for action in each._actions:
                if action.type is Path:
                    action.complete = shtab.FILE  # type: ignore[attr-defined]
        print(shtab.complete(parser, shell=str(shell)))
        parser.exit()


class _Versions(argparse.Action):
    """Print the versions of scjepa, of what it stands on, and of the system."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        """Import what scjepa stands on, for only what is imported is listed, and print."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for name in ("anndata", "scanpy", "scib_metrics", "scvi", "squidpy", "torch"):
                import_module(name)
        from session_info2 import session_info

        print(repr(session_info(dependencies=True)).replace("\t", " "))
        parser.exit()


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = _Parser(
        prog="scjepa",
        description="Joint-embedding predictive models for tissue and single cells: files in, files out.",
        epilog="scjepa COMMAND --help lists the options of a command, with examples.",
    )
    parser.add_argument("--version", action="version", version=f"scjepa {__version__}")
    parser.add_argument(
        "--versions", action=_Versions, nargs=0, help="show the versions of all packages, for a report of a problem"
    )
    parser.add_argument(
        "--completion", action=_Completion, choices=SHELLS, help="print what makes this shell complete commands"
    )
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in COMMANDS:
        own = subparsers.add_parser(
            command.name,
            help=command.summary,
            description=command.description,
            epilog="\n".join(["examples:", *(f"  {line}" for line in command.examples)]),
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        command.add_options(own)
        telling = own.add_argument_group("messages")
        telling.add_argument("-q", "--quiet", action="store_true", help="show no progress on stderr")
        telling.add_argument("--debug", action="store_true", help="show the traceback of an error, and every warning")
        own.set_defaults(run=command.run, parser=own)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    arguments
        Words after ``scjepa``. Default: those of the process.

    Returns
    -------
    int
        0; 1 for what the user can mend in files and options, told in one line on stderr; 2 for a wrong command line;
        130 when interrupted (Ctrl-C), 143 when terminated, 141 at a broken pipe, as in ``| head``.
    """
    words = sys.argv[1:] if arguments is None else list(arguments)
    if words and words[0] in RENAMED:
        return _tell(f"there is no command {words[0]!r}; it is {RENAMED[words[0]]} now.", WRONG_USAGE)
    try:
        options, unknown = build_parser().parse_known_args(words)
        if unknown:
            options.parser.error(_no_such_option(options.parser, unknown))
    except SystemExit as stop:  # --help, --version, or argparse's own errors
        return int(stop.code or 0)
    terminated = threading.Event()
    try:
        with _session(options, terminated):
            options.run(options)
        sys.stdout.flush()
    except BrokenPipeError as error:
        return _closed() if _is_closed() else _tell(error, USER_ERROR)
    except KeyboardInterrupt as stop:  # a training that is terminated ends as one that is interrupted
        return _tell(str(stop) or "interrupted", TERMINATED if terminated.is_set() else INTERRUPTED)
    except UsageError as error:
        return _tell(error, WRONG_USAGE)
    except SystemExit as stop:
        return int(stop.code or 0)
    except Exception as error:  # noqa: BLE001 - raised again where it is no user's
        return _failed(error, options, terminated)
    return OK


def _failed(error: Exception, options: argparse.Namespace, terminated: threading.Event) -> int:
    """Tell of an error that the user can mend, and raise others; what was terminated may raise anything."""
    if terminated.is_set():
        return TERMINATED
    if not isinstance(error, _USER_ERRORS):
        raise error
    if options.debug:
        traceback.print_exc()
    return _tell(error, USER_ERROR, options.parser)


def _is_closed() -> bool:
    """Return whether nobody reads stdout any more; a pipe of a worker may break as well, which is an error."""
    try:
        waiting = select.poll()
        waiting.register(sys.stdout.fileno(), 0)
    except (AttributeError, OSError, ValueError):  # no poll on Windows; a stdout that is no file
        return False
    return any(event & select.POLLERR for _, event in waiting.poll(0))


def _closed() -> int:
    """End in silence, as any program in a pipe; what Python would still write at its end goes nowhere."""
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())
    return CLOSED


def _no_such_option(parser: argparse.ArgumentParser, unknown: Sequence[str]) -> str:
    """Return what to say of words that are no options of a command, with the nearest option that is."""
    word = next((word for word in unknown if word.startswith("-")), unknown[0]).split("=")[0]
    near = nearest(word, _options_of(parser))
    return f"there is no {word!r}." + (f" Did you mean {near}?" if near else "")


def _with_subparsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """Yield a parser, and those of its commands."""
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            yield from action.choices.values()


def _options_of(parser: argparse.ArgumentParser) -> dict[str, str]:
    """Return the options that ``--help`` tells, and what each is called in Python."""
    shown = [action for action in parser._actions if action.help != argparse.SUPPRESS]
    return {option: a.dest for a in shown for option in a.option_strings if option.startswith("--")}


def _with_options(text: str, parser: argparse.ArgumentParser) -> str:
    """Add to a message for who types Python the options of the command of the same name as arguments that it names.

    An argument is told by its sign, ``layer=``, and the call that builds a graph by the name that messages have from
    :func:`graph_call`, so that no message need be worded in any way.
    """
    there = _options_of(parser)
    here = [option for option, name in there.items() if re.search(rf"\b{name}=", text)]
    if graph_call().partition("(")[0] in text and "--rebuild-graph" in there:
        here.append("--rebuild-graph")
    missing = [option for option in dict.fromkeys(here) if option not in text]
    return f"{text} On the command line: {', '.join(missing)}." if missing else text


def _tell(what: object, code: int, parser: argparse.ArgumentParser | None = None) -> int:
    """Print one line on stderr and return ``code``; ``parser`` is that of the command, of an error it raised."""
    if isinstance(what, KeyError) and what.args:
        sentence = " " in str(what.args[0])  # str() of a KeyError would quote it
        what = what.args[0] if sentence else f"there is no {what.args[0]!r}; --debug tells where it was looked for"
    elif isinstance(what, MemoryError):
        what = f"memory ran out. {what}"
    text = " ".join(str(what).split())
    print(f"scjepa: {text if parser is None else _with_options(text, parser)}", file=sys.stderr)
    return code


@contextmanager
def _session(options: argparse.Namespace, terminated: threading.Event) -> Iterator[None]:
    """Show warnings in one line each, draw without a display, and let SIGTERM clean up as Ctrl-C does."""
    os.environ.setdefault("MPLBACKEND", "Agg")
    shown, settings.progress_bar = settings.progress_bar, False if options.quiet else settings.progress_bar
    with warnings.catch_warnings(), _terminable(terminated):
        if not options.debug:
            warnings.simplefilter("ignore")
            warnings.simplefilter("default", UserWarning)
            warnings.filterwarnings("ignore", message=".*is not a valid key!.*")  # from a dependency's docstrings
            warnings.showwarning = _show_with(options.parser)
            logging.disable(logging.INFO)  # squidpy's notes go to stdout
        try:
            yield
        finally:
            settings.progress_bar = shown
            logging.disable(logging.NOTSET)


def _show_with(parser: argparse.ArgumentParser) -> Callable[..., None]:
    """Return what shows a warning of a command in one line, and once where several places give it."""
    shown = set[str]()

    def show(message: Warning | str, *_: object) -> None:
        text = _with_options(" ".join(str(message).split()), parser)
        if text not in shown:
            print(f"scjepa: warning: {text}", file=sys.stderr)
        shown.add(text)

    return show


@contextmanager
def _terminable(terminated: threading.Event) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: object) -> NoReturn:
        terminated.set()
        sys.exit(TERMINATED)

    def send_again() -> None:
        if signal.getsignal(signal.SIGTERM) is stop:  # else it has ended meanwhile
            os.kill(os.getpid(), signal.SIGTERM)

    def stop_again(lost: sys.UnraisableHookArgs) -> None:
        if terminated.is_set() and isinstance(lost.exc_value, SystemExit):
            # Raised in a finalizer, of which numba has many while it compiles, where Python drops it.
            threading.Timer(_SOON, send_again).start()
        else:
            hook(lost)

    before = signal.signal(signal.SIGTERM, stop)
    hook, sys.unraisablehook = sys.unraisablehook, stop_again
    try:
        yield
    finally:
        sys.unraisablehook = hook
        signal.signal(signal.SIGTERM, before)
