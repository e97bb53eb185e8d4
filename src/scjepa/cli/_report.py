"""A report as text."""

from __future__ import annotations


def lines(title: str, facts: dict[str, str]) -> str:
    """Return a report: a title, and a line for each fact that there is."""
    width = max(map(len, facts))
    indent = "\n" + " " * (width + 4)
    shown = [f"  {name:<{width}}  {text.replace(chr(10), indent)}" for name, text in facts.items() if text]
    return "\n".join([title, *shown])
