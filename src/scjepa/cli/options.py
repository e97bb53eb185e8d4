"""What subcommands are made of: their options, the values of these, the models there are, and progress."""

from __future__ import annotations

import argparse
import inspect
import re
import sys
import time
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import partial, reduce
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, TypeAlias, Union, cast, get_args, get_origin, get_type_hints

from scjepa._core import keys as _keys
from scjepa._core.meaning import nearest
from scjepa._core.options import unknown_name
from scjepa.celljepa.config import CELL_PRESETS, CellJEPAConfig, resolve_cells
from scjepa.stjepa.config import PRESETS, STJEPAConfig, resolve


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

    @classmethod
    def of(cls, doc: str | None, run: Callable[[argparse.Namespace], None], *groups: Group) -> Command:
        """Return the command of a module, whose docstring is its help.

        Parameters
        ----------
        doc
            The name in backticks, a colon and the summary; the description; indented examples.
        run
            Does the work.
        *groups
            Dataclasses of options, with names where not all of their fields are options of this command (see
            :func:`add_fields`), and functions that add options to a parser.
        """
        head, _, rest = inspect.cleandoc(doc or "").partition("\n")
        name, _, summary = head.strip("`").partition("``: ")
        text, *examples = re.split(r"\n    (?=scjepa )", rest.strip())

        def add_options(parser: argparse.ArgumentParser) -> None:
            for group in groups:
                if isinstance(group, (type, tuple)):
                    add_fields(parser, *group if isinstance(group, tuple) else (group,))
                else:
                    group(parser)

        lines = tuple(" ".join(line.replace("\\", " ").split()) for line in examples)
        return cls(name.removeprefix("scjepa "), summary.rstrip("."), text.strip(), lines, add_options, run)


# -- the models ----------------------------------------------------------------------------------------------------


Configuration: TypeAlias = STJEPAConfig | CellJEPAConfig


@dataclass(frozen=True)
class Kind:
    """What the command line knows of a model before it is loaded.

    Attributes
    ----------
    model
        Its class in :mod:`scjepa`, as saved models name it.
    config, presets, resolve
        Its configuration, the presets, and what makes the former of one of the latter.
    scales
        What it embeds, and the ``obsm`` key of each; the first is what files of one embedding hold.
    usual
        The scales that are written where none is named.
    """

    model: str
    config: type[Configuration]
    presets: Mapping[str, Configuration]
    resolve: Callable[..., Configuration]
    scales: Mapping[str, str]
    usual: tuple[str, ...]


_SCALES = {"neighborhood": _keys.EMBEDDING, "cell": _keys.EMBEDDING_CELL}
_SCALES_OF_CELLS = {"cls": "X_celljepa", "genes": "X_celljepa_genes"}

KINDS = {
    "stjepa": Kind("STJEPA", STJEPAConfig, PRESETS, resolve, _SCALES, ("neighborhood", "cell")),
    "celljepa": Kind("CellJEPA", CellJEPAConfig, CELL_PRESETS, resolve_cells, _SCALES_OF_CELLS, ("cls",)),
}
"""The models, by what ``--model`` calls them."""

ALL_PRESETS = tuple(dict.fromkeys(name for kind in KINDS.values() for name in kind.presets))


# -- options from dataclasses --------------------------------------------------------------------------------------


def positive(text: str) -> int:
    """Return a whole number of at least 1."""
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, found {text!r}")
    return number


Group = type | tuple[type, tuple[str, ...]] | Callable[[argparse.ArgumentParser], None]
Positive = Annotated[int, positive]
Column = Annotated[str, "COLUMN"]
Key = Annotated[str, "KEY"]
Saved = Annotated[str, "MODEL"]
Folder = Annotated[Path, "FOLDER"]
Paths = Annotated[list[Path], "FILE"]
Accelerator = Literal["auto", "cpu", "cuda", "mps"]

Values: TypeAlias = dict[str, Any]
"""Values of any kind by name, as JSON holds them."""

_WORDS = {int: "N", float: "X", str: "NAME", Path: "PATH"}


def texts_of(options: type) -> tuple[str, dict[str, str]]:
    """Return the first sentence of a dataclass' docstring, and what it says of each field."""
    found: dict[str, str] = {}
    for base in reversed(options.__mro__):
        text = inspect.cleandoc(base.__doc__ or "").replace("``", "")
        for names, said in re.findall(r"^(\w+(?:, \w+)*)\n((?: {4}.*\n?|\n)+)", text, re.M):
            found |= dict.fromkeys(names.split(", "), " ".join(said.split()))
    return (options.__doc__ or "").partition("\n")[0].rstrip("."), found


def add_fields(parser: argparse.ArgumentParser, options: type, names: Sequence[str] = ()) -> None:
    """Add each field of a dataclass as an option, or where it has no default as an argument.

    Its type tells what values it takes, ``Annotated`` with a word for them or with what reads them; its metadata is
    told to ``argparse`` besides, but for ``"flag"``, which is another name; and the docstring tells what it does, its
    first sentence being the title of the group.

    Parameters
    ----------
    names
        Fields to add; default: all.
    """
    title, texts = texts_of(options)
    group = parser.add_argument_group(title[:1].lower() + title[1:])
    hints = get_type_hints(options, include_extras=True)
    for part in fields(options):
        if names and part.name not in names:
            continue
        how, said = {**_how(hints[part.name]), **part.metadata}, texts.get(part.name, "")
        if "choices" in how:
            how.pop("metavar", None)
        if part.default is MISSING and not how.get("required"):
            group.add_argument(part.name, help=said, **how)
            continue
        default = None if part.default is MISSING else part.default
        told = "" if default is None or default is False else f" (default: {default})"
        flag, said = how.pop("flag", _option(part.name)), f"{said.rstrip('.')}{told}"
        group.add_argument(flag, dest=part.name, default=default, help=said, **how)


def _how(hint: Any) -> Values:
    """Return how ``argparse`` reads values of a type."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return {**_how(inner[0]), "metavar" if isinstance(inner[1], str) else "type": inner[1]}
    if origin in (Union, types.UnionType):
        return _how(next(kind for kind in inner if kind is not type(None)))
    if origin is Literal:
        return {"choices": inner, "type": type(inner[0])}
    if origin is list:
        return {**_how(inner[0]), "nargs": "+"}
    return {"action": "store_true"} if hint is bool else {"type": hint, "metavar": _WORDS[hint]}


@dataclass(frozen=True)
class Files:
    """Arguments.

    Parameters
    ----------
    files
        Cells: .h5ad, .zarr (AnnData) or a SpatialData store.
    """

    files: Paths


@dataclass(frozen=True)
class ModelAndFiles:
    """Arguments.

    Parameters
    ----------
    model
        Folder of a saved model, or name of a checkpoint.
    files
        Cells: .h5ad, .zarr (AnnData) or a SpatialData store; their genes are aligned with the model's by name.
    """

    model: Saved
    files: Paths


@dataclass(frozen=True)
class Device:
    """Device.

    Parameters
    ----------
    accelerator
        Device; auto: the best there is.
    """

    accelerator: Accelerator = "auto"


@dataclass(frozen=True)
class Where:
    """Where things are in the files.

    Parameters
    ----------
    layer
        Layer of raw counts, or X for the matrix. Default: the model's, else X.
    library_key
        obs column of sections. Default: the model's, else section where a file has it; else each file is a section.
    technology_key
        obs column of technologies. Default: the model's, else technology where a file has it; else each file is one of
        its own.
    spatial_key
        obsm key of coordinates. Default: the model's, else spatial.
    neighbors_key
        squidpy's key_added of a spatial graph that is in the files. Default: the model's, else spatial.
    batch_key
        celljepa: obs column of batches. Default: each of several files is a batch.
    labels_key
        celljepa: obs column of labels, for --finetune.
    rebuild_graph
        Build the spatial graph anew where a file has one.
    table
        Table of SpatialData stores that have several.
    """

    layer: str | None = None
    library_key: Column | None = None
    technology_key: Column | None = None
    spatial_key: Key | None = None
    neighbors_key: Key | None = None
    batch_key: Column | None = None
    labels_key: Column | None = None
    rebuild_graph: bool = False
    table: str | None = None

    @classmethod
    def of(cls, options: argparse.Namespace) -> Where:
        """Return where the command line says."""
        return cls(**{name: value for name, value in vars(options).items() if name in cls.__dataclass_fields__})


OF_PLACES = ("layer", "library_key", "technology_key", "spatial_key", "neighbors_key", "rebuild_graph", "table")
"""What says where things are that an ST-JEPA model reads."""


@dataclass(frozen=True)
class AddedNiches:
    """Results.

    Parameters
    ----------
    out
        File to write (.h5ad, .zarr), or a folder for one file each, named as the inputs; without it, niches are added
        to the input files, which takes --overwrite.
    overwrite
        Replace files that are there, and niches in them.
    key_added
        obs column of niches; other columns, where there are any, begin with its name.
    """

    out: Path | None = None
    overwrite: bool = False
    key_added: Column = _keys.NICHE


# -- options of a configuration ------------------------------------------------------------------------------------


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


class _Change(argparse.Action):
    """An option of a configuration as an option of the command: adds its path and value to those of ``--set``."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: object, *_: object
    ) -> None:
        """Note a change."""
        namespace.set = [*namespace.set, f"{self.const}={values}"]


class _Listing(argparse.Action):
    """Print every option of the configurations."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        """Print the options of each model, with the values of its preset ``"base"``."""
        for name, kind in KINDS.items():
            preset: Any = kind.presets["base"]
            print(f"--model {name}, with the values of --preset base")
            for path in kind.config.option_paths():
                of_preset = reduce(lambda part, name: getattr(part, name, "-"), path.split("."), preset)
                print(f"  {_option(path)} {of_preset}")  # "-": an option of another objective
        parser.exit()


def add_configuration(parser: argparse.ArgumentParser) -> None:
    """Add ``--set``, and each option of the configurations by its path; they are told by ``--list-options``."""
    group = parser.add_argument_group("options of the preset")
    said = (
        "change an option, such as encoder.n_layers=3; may be given several times. --encoder.n-layers 3 says the same"
    )
    group.add_argument("--set", action="append", default=[], metavar="PART.OPTION=VALUE", help=said)
    group.add_argument("--list-options", action=_Listing, nargs=0, help="tell all options of the presets, and exit")
    for path in dict.fromkeys(path for kind in KINDS.values() for path in kind.config.option_paths()):
        flags = [_option(path), *([_option(path.removesuffix(".name"))] if path.endswith(".name") else [])]
        group.add_argument(*flags, dest="set", action=_Change, const=path, help=argparse.SUPPRESS)


def configuration(preset: str, changes: Sequence[str], kind: Kind = KINDS["stjepa"]) -> Configuration:
    """Return a preset with changes such as ``"encoder.n_layers=3"``.

    Raises
    ------
    UsageError
        If the model has no such preset, a part or option is not known, or a value is none it can have.
    """
    if preset not in kind.presets:
        raise UsageError(f"--preset {preset}: {unknown_name(f'preset of {kind.model}', preset, kind.presets)}")
    try:
        return kind.resolve(preset, **changes_of(changes, kind.config))
    except UsageError:
        raise
    except ValueError as error:
        raise UsageError(f"--set: {error}") from error


def changes_of(changes: Sequence[str], config: type[Configuration] = STJEPAConfig) -> Values:
    """Return changes such as ``"encoder.n_layers=3"`` by part and option; parts may have parts.

    Parameters
    ----------
    config
        The configuration whose parts and options there are.

    Raises
    ------
    UsageError
        If a part or option is not known, or a value is not of its type.
    """
    found: Values = {}
    for change in changes:
        path, equals, text = change.partition("=")
        *parts, option = path.strip().split(".")
        if not (equals and parts):
            raise UsageError(f"--set takes PART.OPTION=VALUE, such as encoder.n_layers=3; found {change!r}.")
        place, kind = found, cast(Any, config)
        try:
            for part in parts:
                kind, place = kind.option_types()[part], place.setdefault(part, {})
            place[option] = value_of(text.strip(), kind.option_types()[option])
        except (KeyError, AttributeError):
            near = nearest(path.strip(), config.option_paths())
            hint = f" Did you mean {near}?" if near else ""
            raise UsageError(f"--set {change}: no such option.{hint} scjepa fit --list-options lists all.") from None
        except ValueError as error:
            raise UsageError(f"--set {change}: {error}") from error
    return found


def value_of(text: str, hint: object) -> Any:
    """Return ``text`` as a value of the type ``hint``.

    Raises
    ------
    ValueError
        If it is none.
    """
    if is_dataclass(hint):
        raise ValueError("this is a part, with options of its own")
    if get_origin(hint) in (Union, types.UnionType):
        alternatives = get_args(hint)
        if text.lower() in ("none", "null") and type(None) in alternatives:
            return None
        return value_of(text, next(a for a in alternatives if a is not type(None)))
    if get_origin(hint) is tuple:
        inner = get_args(hint)
        words = text.strip("()[] ").split(",")
        if len(words) != len(inner):
            raise ValueError(f"{len(inner)} values are needed, separated by commas")
        return tuple(value_of(word.strip(), own) for word, own in zip(words, inner, strict=True))
    if hint is bool:
        if text.lower() not in ("true", "false"):
            raise ValueError("the value must be true or false")
        return text.lower() == "true"
    if hint in (int, float):
        try:
            return int(text) if hint is int else float(text)
        except ValueError:
            raise ValueError(f"the value must be {'a whole number' if hint is int else 'a number'}") from None
    return text


# -- what is told --------------------------------------------------------------------------------------------------


class Progress:
    """Lines with the seconds since the start, on stderr.

    Parameters
    ----------
    options
        Of the command line; ``quiet`` is read.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self.quiet: bool = options.quiet
        self._start = time.perf_counter()

    def step(self, text: str) -> None:
        """Tell what is being done."""
        self.note(f"[{time.perf_counter() - self._start:5.0f} s] {text}")

    def note(self, text: str) -> None:
        """Tell something beside."""
        if not self.quiet:
            print(text, file=sys.stderr, flush=True)


@contextmanager
def stopped_with(then: str) -> Iterator[None]:
    """Say ``then`` of a run that is interrupted: what becomes of its work, which the model that trains cannot know."""
    try:
        yield
    except KeyboardInterrupt as stop:
        raise KeyboardInterrupt(f"interrupted; {then}") from stop


written = partial(print, flush=True)
"""Print the path of a result, and nothing else, on stdout: one line for each."""
