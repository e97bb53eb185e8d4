"""A checksum of one's own function and of what it rests on, so that it is run anew when either was changed.

dask's ``tokenize`` tells functions as well, but by the file and line they stand at too: in a notebook another place in
each session, in a script another one after any edit above it.
"""

from __future__ import annotations

import builtins
import dis
import functools
import hashlib
import logging
import re
import sys
import sysconfig
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from enum import Enum
from itertools import chain
from pathlib import Path, PurePath
from types import (
    BuiltinFunctionType,
    CodeType,
    EllipsisType,
    FunctionType,
    MappingProxyType,
    MethodType,
    ModuleType,
    NoneType,
)
from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse

UNKNOWN = "unknown"
"""Code of a function that rests on what cannot be told, such as a fitted model: it is run anew each time."""

_PRINTED = (
    *(NoneType, bool, int, float, complex, str, bytes, EllipsisType, range, slice),
    *(PurePath, Enum, re.Pattern, logging.Logger, np.generic, np.dtype, np.ufunc),
)
"""Types whose values are what they print, in every session."""

_SHARED = (tuple, frozenset, CodeType)
"""Types of which Python may make one of two equal ones, in one session and not in another."""

_INSTALLED = frozenset({"site-packages", "dist-packages"})
_FOLDERS = (Path(sysconfig.get_paths()["stdlib"]).resolve(), Path(__file__).resolve().parents[1])
"""Of Python and of scjepa, which are not one's own either."""


class _UntoldError(Exception):
    """Something of which it cannot be told whether it was changed."""


def code_of(function: Callable[..., Any]) -> str:
    """Return a checksum of one's own function, so that it is run anew when it was changed.

    It is of what the function does, of its defaults, of the variables around it that it reads, of the arguments of a
    ``functools.partial`` and of the attributes of an object; of functions that it calls, where they are no installed
    package's. Of modules it is the name alone.

    Returns
    -------
    str
        :data:`UNKNOWN` where one of these cannot be told.
    """
    try:
        words = list(_Teller().of(function))
    except (_UntoldError, RecursionError, TypeError):
        return UNKNOWN
    return hashlib.sha256("\n".join(words).encode(errors="backslashreplace")).hexdigest()[:8]


class _Teller:
    """Tells values in words that are the same in every session."""

    def __init__(self) -> None:
        self._met: dict[int, tuple[int, Any]] = {}  # the values too, lest another one takes the place of one that went

    def of(self, value: Any) -> Iterator[str]:
        """Yield the words of a value; what comes again, a function that calls itself too, by its number."""
        if isinstance(value, _PRINTED):
            yield f"{type(value).__qualname__} {value!r}"
            return
        if id(value) in self._met:
            yield f"again {self._met[id(value)][0]}"
            return
        if type(value) not in _SHARED:
            self._met[id(value)] = (len(self._met), value)
        yield f"{type(value).__qualname__} of"
        for part in _parts(value):
            yield from self.of(part)
        yield "end"


def _parts(value: Any) -> Iterable[Any]:
    """Return what makes up a value."""
    if type(value) in _PARTS:
        return _PARTS[type(value)](value)
    if sparse.issparse(value):
        entries = value.tocoo()
        return value.shape, entries.row, entries.col, entries.data
    if isinstance(value, type):
        return _parts_of_class(value)
    return _parts_of_object(value)


def _parts_of_array(array: np.ndarray) -> Iterable[Any]:
    if array.dtype == object:
        return array.shape, array.ravel().tolist()
    return array.shape, array.dtype, hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


def _parts_of_code(code: CodeType) -> Iterable[Any]:
    # Not the source: there is none of what exec made, and that of a lambda is the whole line.
    return (
        *(code.co_code, code.co_exceptiontable),
        *(code.co_names, code.co_varnames, code.co_freevars, code.co_consts),
    )


def _parts_of_function(function: FunctionType) -> Iterable[Any]:
    closure = [cell.cell_contents for cell in function.__closure__ or () if _is_filled(cell)]
    always = (function.__code__, function.__defaults__, function.__kwdefaults__, closure)
    if not _is_own(function.__code__.co_filename):
        return (function.__module__, function.__qualname__, *always)
    names = sorted(set(_global_names(function.__code__)) & set(function.__globals__))
    return (*always, vars(function), {name: function.__globals__[name] for name in names})


def _is_filled(cell: Any) -> bool:
    try:
        return cell.cell_contents is not cell
    except ValueError:  # the variable has no value yet
        return False


def _global_names(code: CodeType) -> Iterator[str]:
    """Yield the global variables that a function and the functions within it read."""
    for step in dis.get_instructions(code):
        if step.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            yield step.argval
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield from _global_names(inner)


def _parts_of_builtin(function: BuiltinFunctionType) -> Iterable[Any]:
    return function.__qualname__, function.__self__


def _parts_of_class(cls: type) -> Iterable[Any]:
    names = (cls.__module__, cls.__qualname__)
    if not _is_own_class(cls):
        return names
    members = {
        name: member
        for name, member in vars(cls).items()
        if isinstance(member, FunctionType) or not (name.startswith("__") or name == "_abc_impl")
    }
    return (*names, cls.__bases__, members)


def _parts_of_object(value: Any) -> Iterable[Any]:
    """Return class and attributes of an object of one's own class, or the name that an installed package has for it."""
    if all(_is_told_by_attributes(cls) for cls in type(value).__mro__[:-1]):
        return type(value), vars(value)
    module, name = getattr(value, "__module__", None), getattr(value, "__name__", None)
    if name is not None and getattr(sys.modules.get(str(module)), str(name), None) is value:
        return module, name
    raise _UntoldError(type(value))


def _is_told_by_attributes(cls: type) -> bool:
    slots = vars(cls).get("__slots__")
    return slots == () if slots is not None else _is_own_class(cls)


def _is_own_class(cls: type) -> bool:
    if cls.__module__ == builtins.__name__:
        return False
    module = sys.modules.get(cls.__module__)
    file = getattr(module, "__file__", None)
    # A module without a file is a notebook or exec's; one of those that are built in has a loader that says so.
    return _is_own(file) if file else cls.__module__ not in sys.builtin_module_names


def _is_own(file: str) -> bool:
    """Return whether a file is one's own, and no installed package's."""
    if file.startswith("<frozen"):
        return False
    path = Path(file).resolve()
    return not _INSTALLED & set(path.parts) and not any(path.is_relative_to(folder) for folder in _FOLDERS)


def _items(values: Mapping[Any, Any]) -> Iterable[Any]:
    return chain.from_iterable(values.items())


_PARTS: Mapping[type, Callable[[Any], Iterable[Any]]] = {
    list: iter,
    tuple: iter,
    set: lambda values: sorted(values, key=repr),  # their order is another in each session
    frozenset: lambda values: sorted(values, key=repr),
    dict: _items,
    OrderedDict: _items,
    MappingProxyType: _items,
    np.ndarray: _parts_of_array,
    pd.DataFrame: lambda table: (table.columns, table.index, *(np.asarray(column) for _, column in table.items())),
    pd.Series: lambda column: (column.name, column.index, np.asarray(column)),
    pd.Index: lambda index: (index.name, np.asarray(index)),
    pd.RangeIndex: lambda index: (index.name, index.start, index.stop, index.step),
    CodeType: _parts_of_code,
    FunctionType: _parts_of_function,
    BuiltinFunctionType: _parts_of_builtin,
    MethodType: lambda method: (method.__func__, method.__self__),
    ModuleType: lambda module: (module.__name__,),
    functools.partial: lambda part: (part.func, part.args, part.keywords),
    type(functools.lru_cache(len)): lambda cached: (cached.__wrapped__,),
    staticmethod: lambda method: (method.__func__,),
    classmethod: lambda method: (method.__func__,),
    property: lambda own: (own.fget, own.fset),
}
"""What makes up values of a type; that of a type derived from it may have more to it."""
