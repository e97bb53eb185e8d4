"""Fitted objects as plain dictionaries and files, so that they outlive the session that fitted them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from scjepa._core.anndata import record, record_of
from scjepa._core.files import whole

if TYPE_CHECKING:
    from anndata import AnnData

_OPTIONS = "options"
"""Key of the options in the dictionary of a fitted object; the others are what the fit set."""

_CLASS = "class"
"""Key of the name of its class."""

_META = "scjepa"
"""Key of the JSON in a file's metadata."""


class Kept:
    """A scikit-learn estimator that can be kept: as a dictionary (``uns``) or a file (safetensors).

    What its fit set are arrays, numbers, texts and other kept estimators, under names that end in ``_``.
    """

    def to_dict(self) -> dict[str, Any]:
        """Return options and what the fit set, as h5ad and zarr can write it. Options of ``None`` are left out.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            If nothing was fitted.
        """
        from sklearn.utils.validation import check_is_fitted

        check_is_fitted(self)
        options = {name: value for name, value in self._options().items() if value is not None}
        fitted = {name: value for name, value in vars(self).items() if name.endswith("_") and name[0] != "_"}
        plain = {name: _plain(value) for name, value in fitted.items()}
        return {_CLASS: type(self).__name__, _OPTIONS: options, **plain}

    @classmethod
    def from_dict(cls, kept: Mapping[str, Any]) -> Self:
        """Make the object anew from what :meth:`to_dict` gave, also after h5ad or zarr held it."""
        made = cls(**{name: _scalar(value) for name, value in kept[_OPTIONS].items()})
        for name, value in kept.items():
            if name not in (_OPTIONS, _CLASS):
                setattr(made, name, made._restored(name, value))
        return made

    @classmethod
    def noted(cls, adata: AnnData, key: str, call: str) -> Self:
        """Return the object that ``call`` noted for ``adata.obsm[key]``.

        Raises
        ------
        KeyError
            If it noted none, or one of another kind.
        """
        kept = record_of(adata, key).get("fitted")
        if kept is None or kept.get(_CLASS, cls.__name__) != cls.__name__:
            found = "nothing fitted" if kept is None else f"a {kept[_CLASS]}"
            raise KeyError(
                f"adata.uns['scjepa'] holds {found} for {key!r}, and no {cls.__name__}. Make it: scjepa.tl.{call}"
            )
        return cls.from_dict(kept)

    def note_in(self, adata: AnnData, key: str, **how: object) -> None:
        """Note the object beside how ``adata.obsm[key]`` was made, for :meth:`noted` to find it."""
        record(adata, key, slot="obsm", fitted=self.to_dict(), **how)

    def save(self, path: str | Path) -> None:
        """Write the object to a safetensors file, whole or not at all; a file that is there is replaced."""
        from safetensors.numpy import save_file

        arrays, facts = _flat(self.to_dict())
        with whole(Path(path)) as draft:
            save_file(arrays, draft, {_META: json.dumps({_CLASS: type(self).__name__, **facts})})

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what :meth:`save` wrote.

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        ValueError
            If the file holds something else.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(str(path), "numpy") as file:
                facts = json.loads((file.metadata() or {}).get(_META, "{}"))
                arrays = {name: file.get_tensor(name) for name in file.keys()}
        except SafetensorError as error:
            raise ValueError(f"{path} is no whole safetensors file: {error}.") from error
        if facts.get(_CLASS) != cls.__name__:
            raise ValueError(
                f"{path} holds {facts.get(_CLASS, 'something else')} and no {cls.__name__}: read what "
                f"{cls.__name__}.save wrote."
            )
        return cls.from_dict(_nested(arrays, facts["facts"]))

    def _options(self) -> dict[str, Any]:
        """Return the arguments of ``__init__``, which an estimator keeps under their names."""
        return {name: getattr(self, name) for name in signature(type(self).__init__).parameters if name != "self"}

    def _check_whole(self, *names: str) -> None:
        """Refuse options that are not integers of 1 or more."""
        for name in names:
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | np.integer):
                raise TypeError(f"{name} must be a whole number, found {value!r}.")
            if value < 1:
                raise ValueError(f"{name} must be positive, found {value}.")

    def _restored(self, name: str, value: Any) -> Any:
        """Return an attribute from its plain form."""
        return _scalar(value)


def _plain(value: Any) -> Any:
    if isinstance(value, Kept):
        return value.to_dict()
    if isinstance(value, list | tuple) and any(isinstance(one, Kept) for one in value):
        return {str(number): one.to_dict() for number, one in enumerate(value)}
    if isinstance(value, list | tuple | np.ndarray):
        array = np.asarray(value)
        return array.astype(str) if array.dtype == object else array
    return value


def _scalar(value: Any) -> Any:
    """Return a NumPy scalar as Python's; arrays of texts, whatever holds them, as object arrays."""
    if isinstance(value, np.generic) or (isinstance(value, np.ndarray) and value.ndim == 0):
        return value.item()
    if hasattr(value, "dtype") and getattr(value.dtype, "kind", "O") in "UTO":
        return np.asarray(value, dtype=object)
    return value


def _flat(kept: Mapping[str, Any], prefix: str = "") -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return arrays of numbers by path, and everything else as nested plain values under ``"facts"``."""
    arrays: dict[str, np.ndarray] = {}
    facts: dict[str, Any] = {}
    for name, value in kept.items():
        if isinstance(value, Mapping):
            inner, found = _flat(value, f"{prefix}{name}/")
            arrays |= inner
            facts[name] = found["facts"]
        elif isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
            arrays[f"{prefix}{name}"] = np.ascontiguousarray(value)
        elif isinstance(value, np.ndarray):
            facts[name] = {"texts": value.astype(str).tolist()}
        else:
            facts[name] = value.item() if isinstance(value, np.generic) else value
    return arrays, {"facts": facts}


def _nested(arrays: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> dict[str, Any]:
    def unpacked(value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        if set(value) == {"texts"}:
            return np.array(value["texts"], dtype=object)
        return {name: unpacked(inner) for name, inner in value.items()}

    kept = unpacked(dict(facts))
    for path, array in arrays.items():
        *parents, name = path.split("/")
        inner = kept
        for parent in parents:
            inner = inner.setdefault(parent, {})
        inner[name] = array
    return kept
