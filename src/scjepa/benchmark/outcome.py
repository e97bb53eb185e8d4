"""One method on prepared cells: in this session or in a process, with what it took, or the reason why it failed."""

from __future__ import annotations

import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from anndata import AnnData

from scjepa._core import keys as _keys
from scjepa._core.options import unknown_name
from scjepa._core.plain import plain
from scjepa.benchmark import method as registry
from scjepa.benchmark.inputs import prepare, restore, with_counts
from scjepa.benchmark.memory import peak_gib, reset_peak
from scjepa.benchmark.method import PARTS, Arguments, Method, MethodError, MethodResult, Parts, checked

PYTHON_VARIABLE = "SCJEPA_PEERS_PYTHON"
"""Environment variable that names the interpreter of the peers' environment."""

WORKER = Path(__file__).parent / "worker"
"""Folder that Python runs. It is none of the peers', whose files have the names of the packages they call."""

_OF_THIS_ENVIRONMENT = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "PYTHONSAFEPATH")
"""Variables that would lead another interpreter to the packages of this one."""


@dataclass
class Took:
    """Time of a method, in seconds."""

    seconds: float = 0.0
    cpu_seconds: float = 0.0

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Add what happens inside."""
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        self.add(time.perf_counter() - wall, time.process_time() - cpu)

    def add(self, seconds: float, cpu_seconds: float) -> None:
        """Add what was counted elsewhere."""
        self.seconds += seconds
        self.cpu_seconds += cpu_seconds


def check_options(name: str, method: Method, options: Arguments, more: tuple[str, ...] = ()) -> None:
    """Refuse options that a method does not have.

    Raises
    ------
    ValueError
        If one is not known; the message has the nearest name.
    """
    for option in options:
        if option not in (*method.options, *more):
            raise ValueError(unknown_name(f"option of {name!r}", option, (*method.options, *more)))


def missing_option(method: Method, options: Arguments) -> str | None:
    """Return the first option that a method needs and was not given."""
    return next((option for option in method.required if options.get(option) is None), None)


def run_method(
    name: str,
    adata: AnnData,
    *,
    seed: int = 0,
    settings: str | None = None,
    n_niches: int | None = None,
    options: Arguments | None = None,
    python: str | os.PathLike[str] | None = None,
    timeout: float | None = None,
    layer: str | None = None,
    library_key: str | None = None,
    technology_key: str | None = None,
    neighbors_key: str = _keys.SPATIAL,
    spatial_key: str = _keys.SPATIAL,
) -> MethodResult:
    """Run a method of :data:`METHODS` and return what it gives, or the reason why it gives nothing.

    The method sees counts, section, technology, coordinates and the spatial graph, and never a label, unless an option
    names a column. Peers run in a process of their own. Nothing of ``adata`` is changed.

    Parameters
    ----------
    name
        Name in :data:`METHODS`.
    adata
        Raw counts, coordinates and squidpy's spatial graph.
    seed
        Seed of the method.
    settings
        ``"tutorial"`` (the method's own) or ``"same graph"`` (the graph of ``adata``). Default: the method's first.
    n_niches
        Number of niches, for a method that also makes clusters of its own; ``None``: it makes none, unless they are all
        it gives.
    options
        The method's options by name, ``METHODS[name].options``.
    python
        Interpreter for methods in a process of their own. Default: the environment variable ``SCJEPA_PEERS_PYTHON``,
        else this one.
    timeout
        Seconds after which such a process is ended; it does not hold for methods in this session.
    layer, library_key, technology_key, neighbors_key, spatial_key
        Where the data are, as in :meth:`scjepa.STJEPA.setup_anndata`. Section and technology default to
        ``obs["section"]`` and ``obs["technology"]`` where these are there.

    Returns
    -------
    MethodResult
        With ``error`` where the method is not installed, fails, takes too long or gives something that cannot be used.

    Raises
    ------
    ValueError
        If the method, its settings or an option is not known, or an option is missing; if the data are no counts.
    KeyError
        If the data lack the graph, the coordinates or a column.

    Examples
    --------
    >>> result = scjepa.benchmark.run_method("banksy", adata, settings="same graph")  # doctest: +SKIP
    >>> adata.obsm["X_banksy"] = result.embedding  # doctest: +SKIP
    """
    methods, given = registry.REGISTRY["sections"], dict(options or {})
    if name not in methods:
        raise ValueError(unknown_name("method", name, methods))
    method = methods[name]
    settings = method.settings[0] if settings is None else settings
    if settings not in method.settings:
        raise ValueError(unknown_name(f"settings of {name!r}", settings, method.settings))
    check_options(name, method, given)
    missing = missing_option(method, given)
    if missing is not None:
        raise ValueError(f"{name!r} needs {method.needs}: pass options={{{missing!r}: ...}}.")
    where: Parts = {"library_key": library_key, "technology_key": technology_key, "neighbors_key": neighbors_key}
    where |= {"spatial_key": spatial_key, "layer": layer, **method.asked(given)}
    prepared = prepare(adata, **where)
    arguments = plain({"seed": int(seed), "n_niches": n_niches, **method.fixed, **given}, arrays=True)
    return outcome(method, MethodResult(name, settings, int(seed)), prepared, arguments, python, timeout)


def outcome(
    method: Method,
    result: MethodResult,
    prepared: AnnData,
    arguments: Arguments,
    python: str | os.PathLike[str] | None = None,
    timeout: float | None = None,
) -> MethodResult:
    """Run a method on what :func:`~scjepa.benchmark.inputs.prepare` gave, and fill in the result.

    Parameters
    ----------
    result
        Name, settings and seed.
    arguments
        Keyword arguments of the method.
    python
        Interpreter of a method in a process of its own.
    """
    n_cells = prepared.n_obs  # before the method, which may filter its copy
    try:
        if method.in_session:
            found = _in_session(method, prepared, arguments)
        else:
            found = _in_process(method, prepared, {**arguments, "settings": result.settings}, python, timeout)
        return replace(result, **{**found, **checked(found, n_cells)})
    except MethodError as failure:
        return replace(result, error=str(failure))
    except Exception as error:  # noqa: BLE001 - one method must not stop the others; its reason goes into its row
        return replace(result, error=f"{type(error).__name__}: {registry.one_line(error)}")


def _in_session(method: Method, prepared: AnnData, arguments: Arguments) -> Parts:
    took = Took()
    reset_peak()
    with took.counting():
        output = method.run(prepared, **arguments)  # type: ignore[operator]
    versions = {"python": platform.python_version(), **{name: metadata.version(name) for name in method.packages}}
    return {**output, **asdict(took), "peak_gib": peak_gib(), "versions": versions}


def _in_process(
    method: Method,
    prepared: AnnData,
    arguments: Arguments,
    python: str | os.PathLike[str] | None,
    timeout: float | None,
) -> Parts:
    given, has = with_counts(prepared)
    given.obs_names = [f"cell{i}" for i in range(given.n_obs)]  # the user's may repeat, and no method needs them
    output = run_in_process(Path(str(method.run)), given, arguments, python=find_python(python), timeout=timeout)
    if not has.all():
        output["info"] = {**output["info"], "cells_without_counts": int((~has).sum())}
    return restore(output, has)


# -- in a process: h5ad in, npz out, under a time limit -------------------------------------------------------------


def find_python(python: str | os.PathLike[str] | None = None) -> str:
    """Return the interpreter for methods in a process: the one given, the environment variable's, or this one."""
    return os.path.expanduser(python or os.environ.get(PYTHON_VARIABLE) or sys.executable)


def run_in_process(
    adapter: str | Path, adata: AnnData, arguments: Arguments, *, python: str, timeout: float | None = None
) -> Parts:
    """Run an adapter's ``run(adata, **arguments)`` under another interpreter.

    Parameters
    ----------
    adapter
        File such as those of :mod:`scjepa.benchmark.peers`.
    adata
        What the adapter is given.
    arguments
        Its keyword arguments; anything JSON holds.
    python
        The interpreter.
    timeout
        Seconds, from start to end of the process; ``None``: no limit.

    Returns
    -------
    dict
        ``embedding``, ``clusters`` and ``cell_embedding`` where the adapter gave them, ``info``, ``seconds``,
        ``cpu_seconds``, ``peak_gib`` and ``versions``.

    Raises
    ------
    MethodError
        If the process cannot be started, fails, takes too long or writes nothing.
    """
    with tempfile.TemporaryDirectory(prefix="scjepa-method-") as name:
        folder = Path(name)
        adata.write_h5ad(folder / "input.h5ad")
        (folder / "arguments.json").write_text(json.dumps(plain(arguments, arrays=True)))
        errors = _run([python, str(WORKER), str(adapter), str(folder)], folder, timeout)
        output = folder / "output.npz"
        if not output.is_file():
            raise MethodError(f"The method ended without writing a result. {_last_line(errors)}".strip())
        try:
            with np.load(output, allow_pickle=False) as arrays:
                found: Parts = {key: arrays[key] for key in PARTS if key in arrays}
                return {**found, **json.loads(str(arrays["about"]))}
        except (OSError, ValueError, KeyError, BadZipFile) as error:
            raise MethodError(f"The method's result cannot be read: {error}") from error


def _run(command: list[str], folder: Path, timeout: float | None) -> str:
    """Run to the end, or end it with its children at the time limit; return what it said on stderr."""
    python, environment = command[0], {"MPLBACKEND": "Agg", **os.environ}
    if Path(python) != Path(sys.executable):
        environment = {key: value for key, value in environment.items() if key not in _OF_THIS_ENVIRONMENT}
    try:
        process = subprocess.Popen(
            command,
            cwd=folder,  # packages leave logs and checkpoints where they run
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
        )
    except OSError as error:
        raise MethodError(
            f"The interpreter {python} cannot be started ({error.strerror}). {_how_to_get_peers()}"
        ) from error
    try:
        _, errors = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired as error:
        raise MethodError(f"The method took longer than the time limit of {timeout:g} s.") from error
    finally:
        _end(process)
    if process.returncode:
        raise MethodError(_reason(process.returncode, errors, python))
    return errors


def _end(process: subprocess.Popen) -> None:
    """End the process and whatever it started, if it still runs."""
    if process.poll() is None:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except (ProcessLookupError, AttributeError):  # it is gone, or this is Windows
            process.kill()
        process.communicate()


def _reason(code: int, errors: str, python: str) -> str:
    if code < 0:
        name = signal.Signals(-code).name if -code in set(signal.Signals) else str(-code)
        hint = " Memory may have run out." if name == "SIGKILL" else ""
        return f"The process was ended by signal {name}.{hint}"
    line = _last_line(errors) or f"The process ended with code {code} and no message."
    if line.startswith(("ModuleNotFoundError", "ImportError")):
        return f"{line} (interpreter {python}). {_how_to_get_peers()}"
    return line


def _last_line(errors: str) -> str:
    lines = [line.strip() for line in errors.splitlines() if line.strip()]
    return lines[-1] if lines else ""


def _how_to_get_peers() -> str:
    return (
        "Build the peers' environment with benchmarks/peers/setup.sh and name its interpreter: "
        f"python=... or the environment variable {PYTHON_VARIABLE}."
    )
