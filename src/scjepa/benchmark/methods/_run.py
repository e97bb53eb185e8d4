"""One call for every method."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Mapping
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

from anndata import AnnData

from scjepa._core import keys as _keys
from scjepa._core.options import unknown_name
from scjepa._core.plain import plain
from scjepa.benchmark.methods import _cache, _memory
from scjepa.benchmark.methods._inputs import digest, prepare, restore, with_counts
from scjepa.benchmark.methods._process import ADAPTERS, find_python, run_in_process
from scjepa.benchmark.methods._registry import METHODS, Method
from scjepa.benchmark.methods._result import MethodError, MethodResult, checked


def run_method(
    name: str,
    adata: AnnData,
    *,
    seed: int = 0,
    settings: str | None = None,
    n_niches: int | None = None,
    options: Mapping[str, Any] | None = None,
    python: str | os.PathLike[str] | None = None,
    timeout: float | None = None,
    cache_dir: str | Path | None = None,
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
    cache_dir
        Folder in which results are kept; the same call on the same data with the same scjepa then reads them. Empty it
        when the packages of the peers' environment change. Failures are not kept.
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
        If the method, its settings or an option is not known, or an option is missing.
    KeyError
        If the data lack the graph, the coordinates or a column.

    Examples
    --------
    >>> result = scjepa.benchmark.run_method("banksy", adata, settings="same graph")  # doctest: +SKIP
    >>> adata.obsm["X_banksy"] = result.embedding  # doctest: +SKIP
    """
    method, settings, options = resolve(name, settings, options)
    named = {kind: [options[key] for key in keys if options.get(key)] for kind, keys in _named(method).items()}
    prepared = prepare(
        adata,
        layer=layer,
        library_key=library_key,
        technology_key=technology_key,
        neighbors_key=neighbors_key,
        spatial_key=spatial_key,
        **named,
    )
    arguments = plain({"seed": int(seed), "n_niches": n_niches, **method.fixed, **options}, arrays=True)
    interpreter = None if method.in_session else find_python(python)
    key = None
    if cache_dir is not None:
        key = _cache.key(name=name, settings=settings, arguments=arguments, python=interpreter, data=digest(prepared))
        kept = _cache.read(cache_dir, key)
        if kept is not None:
            return kept
    result = outcome(method, MethodResult(name, settings, int(seed)), prepared, arguments, interpreter, timeout)
    if cache_dir is not None and key is not None and result.ok:
        _cache.write(cache_dir, key, result)
    return result


def outcome(
    method: Method,
    result: MethodResult,
    prepared: AnnData,
    arguments: Mapping[str, Any],
    interpreter: str | None,
    timeout: float | None = None,
) -> MethodResult:
    """Run a method on what :func:`~scjepa.benchmark.methods._inputs.prepare` gave, and fill in the result.

    Parameters
    ----------
    result
        Name, settings and seed.
    arguments
        Keyword arguments of the method.
    interpreter
        Of a process of its own; ``None``: the method runs in this session.
    """
    n_cells = prepared.n_obs  # before the method, which may filter its copy
    try:
        if interpreter is None:
            found = _in_session(method, prepared, arguments)
        else:
            found = _in_process(method, prepared, {**arguments, "settings": result.settings}, interpreter, timeout)
        return replace(result, **{**found, **checked(found, n_cells)})
    except MethodError as failure:
        return replace(result, error=str(failure))
    except Exception as error:  # noqa: BLE001 - one method must not stop the others; its reason goes into its row
        return replace(result, error=f"{type(error).__name__}: {' '.join(str(error).split())}")


def _named(method: Method) -> dict[str, tuple[str, ...]]:
    return {"obs": method.obs_options, "obsm": method.obsm_options}


def resolve(name: str, settings: str | None, options: Mapping[str, Any] | None) -> tuple[Method, str, dict[str, Any]]:
    """Return the method of a name, its settings and its options.

    Raises
    ------
    ValueError
        If one of them is not known, or an option is missing.
    """
    if name not in METHODS:
        raise ValueError(unknown_name("method", name, METHODS))
    method = METHODS[name]
    settings = method.settings[0] if settings is None else settings
    if settings not in method.settings:
        raise ValueError(unknown_name(f"settings of {name!r}", settings, method.settings))
    options = dict(options or {})
    for option in options:
        if option not in method.options:
            raise ValueError(unknown_name(f"option of {name!r}", option, method.options))
    missing = [option for option in method.required if options.get(option) is None]
    if missing:
        raise ValueError(f"{name!r} needs {method.needs}: pass options={{{missing[0]!r}: ...}}.")
    return method, settings, options


def _in_session(method: Method, prepared: AnnData, arguments: Mapping[str, Any]) -> dict[str, Any]:
    _memory.reset_peak()
    start, cpu = time.perf_counter(), time.process_time()
    output = method.run(prepared, **arguments)  # type: ignore[operator]
    return {
        **output,
        "seconds": time.perf_counter() - start,
        "cpu_seconds": time.process_time() - cpu,
        "peak_gib": _memory.peak_gib(),
        "versions": _versions(method.packages),
    }


def _in_process(
    method: Method, prepared: AnnData, arguments: Mapping[str, Any], python: str, timeout: float | None
) -> dict[str, Any]:
    given, has = with_counts(prepared)
    given.obs_names = [f"cell{i}" for i in range(given.n_obs)]  # the user's may repeat, and no method needs them
    start, cpu = time.perf_counter(), time.process_time()
    if method.before is not None:
        method.before(given, arguments["seed"])
    before = {"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - cpu}
    output = run_in_process(ADAPTERS / str(method.run), given, arguments, python=python, timeout=timeout)
    output.update({name: output[name] + more for name, more in before.items()})
    if not has.all():
        output["info"] = {**output["info"], "cells_without_counts": int((~has).sum())}
    return restore(output, has)


def _versions(packages: tuple[str, ...]) -> dict[str, str]:
    return {"python": platform.python_version(), **{name: metadata.version(name) for name in packages}}
