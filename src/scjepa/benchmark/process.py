"""A method in a process of its own: h5ad in, npz out, under a time limit."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from anndata import AnnData

from scjepa._core.plain import plain
from scjepa.benchmark.method import PARTS, Arguments, MethodError, Parts

PYTHON_VARIABLE = "SCJEPA_PEERS_PYTHON"
"""Environment variable that names the interpreter of the peers' environment."""

WORKER = Path(__file__).parent / "worker"
"""Folder that Python runs. It is none of the peers', whose files have the names of the packages they call."""

ADAPTERS = Path(__file__).parent / "peers"

_OF_THIS_ENVIRONMENT = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "PYTHONSAFEPATH")
"""Variables that would lead another interpreter to the packages of this one."""


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
        command = [python, str(WORKER), str(adapter), str(folder)]
        errors = _run(command, folder, python, timeout)
        output = folder / "output.npz"
        if not output.is_file():
            raise MethodError(f"The method ended without writing a result. {_last_line(errors)}".strip())
        try:
            with np.load(output, allow_pickle=False) as arrays:
                found: Parts = {key: arrays[key] for key in PARTS if key in arrays}
                return {**found, **json.loads(str(arrays["about"]))}
        except (OSError, ValueError, KeyError, BadZipFile) as error:
            raise MethodError(f"The method's result cannot be read: {error}") from error


def _run(command: list[str], folder: Path, python: str, timeout: float | None) -> str:
    """Run to the end, or end it with its children at the time limit; return what it said on stderr."""
    environment = {"MPLBACKEND": "Agg", **os.environ}
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
