"""Results as a notebook shows them: what they say in words, and their tables."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from html import escape
from typing import Any

_MOST = 12
"""Rows and columns of a table that are shown."""


def as_html(result: Any) -> str:
    """Return a result in HTML; it is a class' ``_repr_html_``.

    Its words are shown where ``str()`` of it has some of its own, else its numbers and texts by name; then its data
    frames.

    Parameters
    ----------
    result
        A data class, a named tuple, or anything with words of its own.
    """
    title = f"<strong>{escape(type(result).__name__)}</strong>"
    words = _words_of(result)
    facts = _facts_of(result)
    tables = {name: value for name, value in facts.items() if hasattr(value, "to_html")}
    if words is None:
        plain = {name: _plain(value) for name, value in facts.items() if name not in tables}
        rows = [f"<tr><th>{escape(name)}</th><td>{text}</td></tr>" for name, text in plain.items() if text]
        shown = f"<table>{''.join(rows)}</table>" if rows else ""
    else:
        shown = f'<pre style="white-space: pre-wrap">{escape(words)}</pre>'
    return f"<div>{title}{shown}{''.join(_table(name, value) for name, value in tables.items())}</div>"


def _words_of(result: object) -> str | None:
    """Return ``str()`` of a result whose class, and no base that says it of all, has words of its own."""
    kind = type(result)
    own = next(cls for cls in kind.__mro__ if "__str__" in vars(cls) or "__repr__" in vars(cls))
    says = own not in (object, tuple) and not (dataclasses.is_dataclass(own) and "__str__" not in vars(own))
    return str(result) if says and not hasattr(result, "_fields") else None


def _facts_of(result: object) -> dict[str, object]:
    if hasattr(result, "_asdict"):
        return dict(result._asdict())
    if dataclasses.is_dataclass(result):
        return {field.name: getattr(result, field.name) for field in dataclasses.fields(result)}
    return {}


def _plain(value: object) -> str:
    """Return a number, a text or a few of them by name; nothing of anything larger."""
    if isinstance(value, bool | str):
        return escape(str(value))
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping) and len(value) <= _MOST:
        return ", ".join(f"{escape(str(name))} {_plain(one)}" for name, one in value.items())
    return ""


def _table(name: str, table: Any) -> str:
    size = f"{len(table):,} × {table.shape[1]:,}"
    shown = table.to_html(max_rows=_MOST, max_cols=_MOST, float_format="{:.3g}".format, border=0)
    return f"<details open><summary>{escape(name)} ({size})</summary>{shown}</details>"
