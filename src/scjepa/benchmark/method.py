"""A method of a comparison: what it is, what it gives, how users register their own, and when it is run anew."""

from __future__ import annotations

import functools
import hashlib
import inspect
import pkgutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path, PurePath
from tokenize import TokenError
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from scjepa._core.options import unknown_name

TUTORIAL, SAME_GRAPH, OWN = "tutorial", "same graph", "own"

PARTS = ("embedding", "clusters", "cell_embedding")
"""What a method may give, an array for all cells each."""

Function: TypeAlias = Callable[..., Any]
Arguments: TypeAlias = Mapping[str, Any]
Parts: TypeAlias = dict[str, Any]
"""What a method's function gives: ``embedding``, ``clusters``, ``cell_embedding`` and ``info``."""

UNKNOWN = "unknown"
"""Code of a function that rests on something that cannot be compared, such as a fitted model: it is run each time."""

_LEAST_SPREAD, _MOST_SPREAD = 1e-15, 1e15
"""Spreads between which squared distances are float32 numbers that are neither 0 nor infinite."""

_PLAIN = (type(None), bool, int, float, complex, str, bytes, PurePath, np.generic)
"""Types whose values are the same where they print the same."""


class MethodError(Exception):
    """A method gave no result; the message is the reason that goes into the row."""


@dataclass(frozen=True)
class Method:
    """One method of a comparison.

    Attributes
    ----------
    description
        What it does, in a line.
    run
        A function of this session, or the file of a peer that runs in a process of its own. For sections:
        ``run(adata, *, seed, n_niches, **options)`` returns a dict of ``embedding``, ``clusters``, ``cell_embedding``
        and ``info``; a file's ``run`` is given ``settings`` as well. For cells: ``run(adata, *, seed, batch_key,
        **options)`` is fitted on counts and returns the function that embeds cells.
    needs
        What has to be there besides the data: packages, a file, an option.
    settings
        For sections ``"tutorial"`` and ``"same graph"``, where they differ; the first is the default. For cells
        ``"pretrained"``, ``"untrained"`` or ``"fitted"``.
    options
        Names of its options.
    required
        Those that must be given.
    fixed
        Arguments it is always called with.
    obs_options, obsm_options
        Options that name a column of ``obs``, or a key of ``obsm``, which the method is given.
    seeded
        Whether the result depends on the seed.
    gives
        ``"embedding"``, ``"clusters"``, or both where a number of niches is given.
    packages
        Distributions whose versions are reported, for methods of this session.
    group
        Name that stands for this method and others, such as ``"peers"``; ``""``: it is in none, nor in ``"all"``.
    title
        Its name in tables and figures of cells. Default: the name it is registered under.
    tasks
        What it takes part in. Default: everything.
    """

    description: str
    run: Function | Path
    needs: str = "nothing but the data"
    settings: tuple[str, ...] = (SAME_GRAPH,)
    options: tuple[str, ...] = ()
    required: tuple[str, ...] = ()
    fixed: Arguments = field(default_factory=dict)
    obs_options: tuple[str, ...] = ()
    obsm_options: tuple[str, ...] = ()
    seeded: bool = True
    gives: tuple[str, ...] = ("embedding",)
    packages: tuple[str, ...] = ()
    group: str = "peers"
    title: str = ""
    tasks: tuple[str, ...] = ()

    @property
    def in_session(self) -> bool:
        """Whether it runs in this session rather than in a process of its own."""
        return not isinstance(self.run, Path)

    def asked(self, options: Arguments) -> dict[str, list[str]]:
        """Return the columns of ``obs``, and the keys of ``obsm``, that options name."""
        kinds = {"obs": self.obs_options, "obsm": self.obsm_options}
        return {kind: [options[name] for name in names if options.get(name)] for kind, names in kinds.items()}


@dataclass(frozen=True, kw_only=True)
class Output:
    """What a method took, or why it failed; suites add what it gave. See :class:`MethodResult`."""

    seconds: float = float("nan")
    cpu_seconds: float = float("nan")
    peak_gib: float = float("nan")
    versions: Mapping[str, str] = field(default_factory=dict)
    info: Arguments = field(default_factory=dict)
    error: str | None = None


@dataclass(frozen=True)
class MethodResult(Output):
    """The outcome of one method on one data set: an embedding, clusters, both, or the reason why there is neither.

    Attributes
    ----------
    method
        Name in :data:`scjepa.benchmark.METHODS`.
    settings
        ``"tutorial"`` (the method's own) or ``"same graph"`` (the spatial graph of the data).
    seed
        Seed of the run.
    embedding
        ``(n_cells, n_dims)`` float32 in the order of the cells, or ``None``.
    clusters
        ``(n_cells,)`` the method's own niches as text, or ``None``; ``(n_cells, n)`` of a method that was given several
        ``resolutions``.
    cell_embedding
        ``(n_cells, n_dims)`` float32 at the scale of cells, for methods that have one besides that of neighborhoods.
    seconds
        Wall time of the method alone, in seconds; starting an interpreter, importing packages and reading the data
        do not count. NaN where the method did not finish.
    cpu_seconds
        Processor time of the same, over all threads: what remains comparable where others use the machine too.
    peak_gib
        Peak memory in GiB of the process that ran the method: for a method in a process of its own everything it
        loaded, for one in this session the session's other memory too. NaN where it is not known.
    versions
        Versions of the packages the method rests on, by name; ``"python"`` is the interpreter's.
    info
        What the method did: epochs, graph, dimensions.
    error
        Why there is no result, or ``None``.
    """

    method: str
    settings: str
    seed: int
    embedding: np.ndarray | None = None
    clusters: np.ndarray | None = None
    cell_embedding: np.ndarray | None = None

    @property
    def ok(self) -> bool:
        """Whether there is an embedding or clusters."""
        return self.error is None


def one_line(error: BaseException) -> str:
    """Return the message of an error in one line."""
    return " ".join(str(error).split())


# -- the registry --------------------------------------------------------------------------------------------------

REGISTRY: dict[str, dict[str, Method]] = {"sections": {}, "cells": {}}
"""Methods by suite and name. The suites fill it when they are imported, :func:`register` adds users' own."""


def peers_of(suite: str) -> dict[str, Method]:
    """Return the methods of a suite that the files of :mod:`scjepa.benchmark.peers` describe, file by file.

    A file's ``METHODS`` has the attributes of :class:`Method` by name, and ``suite="cells"`` for a peer of cells, which
    runs in this session by the file's ``fit``; others run in a process of their own by its ``run``.
    """
    from scjepa.benchmark import peers

    found = {}
    for module in pkgutil.iter_modules(peers.__path__):
        peer = import_module(f"{peers.__name__}.{module.name}")
        for name, about in peer.METHODS.items():
            about = dict(about)
            if about.pop("suite", "sections") == suite:
                found[name] = Method(run=peer.fit if suite == "cells" else Path(str(peer.__file__)), **about)
    return found


def register(
    name: str, run: Function | Path | str | None = None, *, suite: str = "sections", **about: Any
) -> Method | Function:
    """Add a method to those that comparisons know by name, for as long as the session lasts; a decorator as well.

    Parameters
    ----------
    name
        Name in tables, and in ``methods=``.
    run
        For sections: a function of AnnData and, where it has parameters of these names, ``seed``, ``n_niches`` and
        ``genes``; it returns an embedding ``(n_cells, n_dims)``, clusters ``(n_cells,)``, or a dict of ``embedding``,
        ``clusters``, ``cell_embedding`` and ``info``. Its other parameters are the method's options. Or the path of a
        file with such a function ``run(adata, *, seed, settings, n_niches, ...)`` and ``PACKAGES``, names of
        distributions, which runs under the interpreter of ``SCJEPA_PEERS_PYTHON``.
        For cells: a function ``(adata, *, seed, batch_key, ...)`` that is fitted on counts and returns a function from
        AnnData to ``(n_cells, n_dims)``. Left out, ``register`` decorates the function below it.
    suite
        ``"sections"`` or ``"cells"``.
    **about
        Further attributes of :class:`~scjepa.benchmark.Method`, such as ``description`` and ``needs``; of a file also
        ``options``.

    Raises
    ------
    ValueError
        If the suite is not known, or the name is taken.

    Examples
    --------
    >>> @scjepa.benchmark.register("total counts")  # doctest: +SKIP
    ... def total_counts(adata, scale=1.0):
    ...     return scale * np.log1p(adata.X.sum(axis=1))
    >>> scjepa.benchmark.run(adata, label="region", methods=["total counts", "controls"])  # doctest: +SKIP
    """
    if run is None:
        return lambda function: register(name, function, suite=suite, **about) and function
    if suite not in REGISTRY:
        raise ValueError(unknown_name("suite", suite, REGISTRY))
    if name in REGISTRY[suite] or name in groups_of(REGISTRY[suite]):
        raise ValueError(f"{name!r} is the name of a method that is there. Give yours another name.")
    if isinstance(run, str | Path):
        method = Method(**{"description": Path(run).stem, "run": Path(run), **about})
    elif suite == "cells":
        method = of_function(run, wrap=False)
        method = replace(method, **{"settings": ("fitted",), "group": "fitted", **about})
    else:
        method = replace(of_function(run), **{"settings": (SAME_GRAPH,), **about})
    REGISTRY[suite][name] = method
    return method


def groups_of(methods: Mapping[str, Method]) -> dict[str, tuple[str, ...]]:
    """Return the names that stand for several methods, and which these are; ``"all"`` are those of any group."""
    groups = dict.fromkeys(method.group for method in methods.values() if method.group)
    named = {group: tuple(name for name, method in methods.items() if method.group == group) for group in groups}
    return {"all": tuple(name for name, method in methods.items() if method.group), **named}


_GIVEN = ("seed", "n_niches", "genes", "batch_key")


def of_function(function: Function, wrap: bool = True) -> Method:
    """Return a user's function as a method: it is called with the parameters that it has; others are its options.

    Parameters
    ----------
    function
        The user's.
    wrap
        Whether it is called for sections, and what it returns put into the order of the cells.
    """
    parameters = inspect.signature(function).parameters
    wanted = [key for key in _GIVEN if key in parameters]
    if inspect.Parameter.VAR_KEYWORD in {parameter.kind for parameter in parameters.values()}:
        wanted = ["seed", "n_niches"]
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    options = [name for name, one in list(parameters.items())[1:] if one.kind in kinds and name not in _GIVEN]
    passed = (*wanted, *options)

    def run(adata: AnnData, **arguments: object) -> object:
        cells = adata.obs_names  # as they are before the function, which may filter its copy
        found = function(adata, **{key: arguments[key] for key in passed if key in arguments})
        return part_of(found, cells) if wrap else found

    about = (inspect.getdoc(function) or "one's own function").split("\n")[0]
    named = (*(["genes"] if "genes" in wanted else []), *options)
    return Method(about, run, settings=(OWN,), options=named, seeded="seed" in wanted)


# -- what a method gives -------------------------------------------------------------------------------------------


def part_of(found: object, cells: pd.Index) -> Parts:
    """Return what a user's function gave: clusters, which have one dimension, an embedding, or a dict of several.

    Parameters
    ----------
    found
        What the function gave.
    cells
        Names of the cells that it was given, in their order.

    Raises
    ------
    MethodError
        If it is no array, or names other cells.
    """
    if found is None:
        return {"embedding": None}
    if isinstance(found, dict) and found and set(found) <= {*PARTS, "info"}:
        return found
    if isinstance(found, pd.DataFrame | pd.Series):
        found = _in_order(found, cells)
    values = _array_of(found, len(cells))
    return {"clusters" if values.ndim == 1 else "embedding": values}


def _in_order(table: pd.DataFrame | pd.Series, cells: pd.Index) -> pd.DataFrame | pd.Series:
    """Return rows in the order of the cells that the index names; where it only counts rows, they stay."""
    index = table.index
    counted = isinstance(index, pd.RangeIndex) and (index.start, index.step) == (0, 1)
    if counted or index.equals(cells):
        return table
    what = f"The index of the {type(table).__name__}"
    other, missing = index[~index.isin(cells)].tolist(), cells[~cells.isin(index)].tolist()
    if other:
        raise MethodError(
            f"{what} has {other[0]!r}, which is none of the cells ({cells[0]!r}, ...). Return it with adata.obs_names "
            "as index, or as an array in the order of the cells."
        )
    if missing:
        raise MethodError(f"{what} has {index.nunique()} of {len(cells)} cells; {missing[0]!r} is not among them.")
    twice = [*index[index.duplicated()], *cells[cells.duplicated()]]
    if twice:
        raise MethodError(f"{what} has {twice[0]!r} twice. Return an array in the order of the cells.")
    return table.loc[cells]


def _array_of(found: object, n_cells: int) -> np.ndarray:
    is_several = isinstance(found, tuple) and len(found) != n_cells and any(np.ndim(part) for part in found)
    if not is_several and not isinstance(found, AnnData | Mapping):
        try:
            return np.asarray(found)
        except ValueError:  # rows of different lengths
            pass
    raise MethodError(
        f"The method returned a {type(found).__name__}; return one array: (n_cells, n_dims) for an embedding, or "
        "(n_cells,) for clusters."
    )


def checked(output: Arguments, n_cells: int) -> dict[str, np.ndarray | None]:
    """Return embeddings and clusters in their final types.

    Raises
    ------
    MethodError
        If there is neither, or one has the wrong shape, NaN, infinite values, or values whose distances are lost in
        32 bits, or clusters are numbers that are not whole.
    """
    if output.get("embedding") is None and output.get("clusters") is None:
        raise MethodError("The method gave neither an embedding nor clusters.")
    checks = {"embedding": checked_embedding, "clusters": _checked_clusters, "cell_embedding": checked_embedding}
    return {name: None if output.get(name) is None else check(output[name], n_cells) for name, check in checks.items()}


def _checked_clusters(values: object, n_cells: int) -> np.ndarray:
    clusters = np.asarray(values)
    if clusters.ndim not in (1, 2) or len(clusters) != n_cells:
        raise MethodError(f"The clusters have the shape {clusters.shape}; the data have {n_cells} cells.")
    missing = pd.isna(clusters).reshape(n_cells, -1).any(axis=1)
    if missing.any():
        raise MethodError(f"{missing.sum()} of {n_cells} cells have no cluster (NaN), as row {missing.argmax()}.")
    numbers = clusters
    if clusters.dtype == object:
        numbers = np.asarray([one for one in clusters.ravel() if isinstance(one, float | np.floating)], dtype=float)
    if np.issubdtype(numbers.dtype, np.floating) and (numbers != np.floor(numbers)).any():
        part = float(numbers[numbers != np.floor(numbers)].flat[0])  # infinite ones are whole
        raise MethodError(
            f"The method returned {part:.6g} for a cell, not an integer. An embedding has the shape (n_cells, "
            "n_dims), of one dimension too: values[:, None]; clusters are whole numbers or names."
        )
    return clusters.astype(str)


def checked_embedding(values: object, n_cells: int) -> np.ndarray:
    """Return an embedding as float32; what cannot be one is a :class:`MethodError`."""
    if sparse.issparse(values) or (isinstance(values, np.ndarray) and values.shape == () and values.dtype == object):
        raise MethodError("The embedding is no array of numbers; a sparse matrix becomes one by .toarray().")
    embedding = np.asarray(values)
    if not np.issubdtype(embedding.dtype, np.number):
        raise MethodError(f"The embedding holds {embedding.dtype}, not numbers.")
    if embedding.ndim != 2 or len(embedding) != n_cells or not embedding.shape[1]:
        raise MethodError(f"The embedding has the shape {embedding.shape}; the data have {n_cells} cells.")
    with np.errstate(over="ignore"):  # what becomes infinite is told below
        embedding = embedding.astype(np.float32)
    bad = ~np.isfinite(embedding).all(axis=1)
    if bad.any():
        raise MethodError(
            f"{bad.sum()} of {n_cells} cells have NaN or infinite values in the embedding, as row {bad.argmax()}."
        )
    spread = float(np.ptp(embedding.astype(np.float64), axis=0).max())
    if spread and not _LEAST_SPREAD < spread < _MOST_SPREAD:
        raise MethodError(
            f"The embedding spreads over {spread:.2g}, and distances in it are lost in 32 bits. Scale it, as to a "
            "standard deviation of 1: no score depends on the scale."
        )
    return embedding


# -- when a user's function is run anew ----------------------------------------------------------------------------


class _UnknownError(Exception):
    """Something of which it cannot be told whether it was changed."""


def code_of(function: Function) -> str:
    """Return a checksum of a user's function, so that it is run anew when it was changed.

    It is of the function's source, of its file (outside notebooks), of the values that it reads around it, its defaults
    and the arguments of a ``functools.partial``.

    Returns
    -------
    str
        :data:`UNKNOWN` where the source is not at hand or a value cannot be compared, such as a fitted model.
    """
    own = function
    while isinstance(own, functools.partial):
        own = own.func
    try:
        words = list(_words_of(function, getattr(own, "__module__", ""), set()))
    except (_UnknownError, OSError, TypeError, SyntaxError, TokenError, RecursionError):
        return UNKNOWN
    return hashlib.sha256("\n".join(words).encode(errors="backslashreplace")).hexdigest()[:8]


def _words_of(value: object, module: str, seen: set[object]) -> Iterator[str]:
    """Yield words that are the same in every session as long as the value is."""
    parts: Sequence[object] = ()
    if isinstance(value, _PLAIN):
        yield repr(value)
    elif isinstance(value, functools.partial):
        parts = (value.func, value.args, value.keywords)
    elif isinstance(value, list | tuple):
        parts = value
    elif isinstance(value, dict):
        parts = [part for item in value.items() for part in item]
    elif inspect.ismodule(value):
        yield value.__name__
    elif inspect.isfunction(value) or inspect.isclass(value):
        yield f"{value.__module__}.{value.__qualname__}"
        if value not in seen and value.__module__ != "builtins":
            seen.add(value)
            parts = (*_source_of(value), *_around(value, module))
    elif _is_found_by_name(value):  # a compiled function
        yield f"{getattr(value, '__module__', None)}.{getattr(value, '__name__', None)}"
    elif isinstance(value, np.ufunc):
        yield value.__name__
    else:
        raise _UnknownError(type(value))
    for part in parts:
        yield from _words_of(part, module, seen)


def _is_found_by_name(value: object) -> bool:
    module = sys.modules.get(str(getattr(value, "__module__", "")))
    return value is not None and getattr(module, getattr(value, "__name__", ""), None) is value


def _source_of(function: Function) -> tuple[str, str]:
    """Return the source of a function, and a checksum of the file that it is in: nothing for a notebook."""
    file = inspect.getsourcefile(function)
    is_file = file is not None and Path(file).is_file()
    return inspect.getsource(function), hashlib.sha256(Path(str(file)).read_bytes()).hexdigest() if is_file else ""


def _around(function: Function, module: str) -> list[object]:
    """Return defaults and variables around a function; of a class and of another module the file says enough."""
    if function.__module__ != module or not inspect.isfunction(function):
        return []
    rest = inspect.getclosurevars(function)
    return [function.__defaults__, function.__kwdefaults__, {**rest.nonlocals, **rest.globals}]  # type: ignore[attr-defined]


class Part(NamedTuple):
    """An embedding of cells, at a read-out and of a group of scores, such as a share of molecules."""

    readout: str
    group: str
    values: np.ndarray
