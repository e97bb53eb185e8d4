"""Measure the prose of the pages, and name what a reader would stumble over; the exit code is 1 if there is anything.

    python scripts/check_prose.py [PAGE ...]

Every page: no phrase of :data:`BANNED`, and no line of code longer than 88 characters. Main pages, which are the README
and what the menu lists above *Evidence*: at most 1,000 words (the README 700), and sentences of at most 20 words on
average. Only the standard library is used.
"""

from __future__ import annotations

import argparse
import re
import statistics
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
WORDS, README_WORDS, MEAN, CODE_WIDTH = 1000, 700, 20.0, 88

BANNED = {
    r"\btold\b": "reported, given, known",
    r"\bbeside\b": "with, next to, compared with",
    r"\blevel with\b": "as good as, about equal to",
    r"\bof (?:its|their|your|our|one's) own\b": "own, separate",
    r"\bthe read-out of before\b": "the earlier read-out",
    r"\bno whole numbers?\b": "not an integer",
}
"""Phrases that are not said, and what is said instead."""


def prose(text: str) -> str:
    """Return the running text of a page: without code, tables, directives, headings and addresses."""
    text = re.sub(r"\A---\n.*?\n---\n", "", text, flags=re.DOTALL)
    text = re.sub(r"^(`{3,})[^\n]*\n.*?^\1$", "", text, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"^\$\$.*?\$\$$", "", text, flags=re.DOTALL | re.MULTILINE)
    lines = (line for line in text.split("\n") if not re.match(r"\s*(?:\||#|:{3,}|:[\w-]+:|<|\(\S+\)=|\[!\[)", line))
    text = "\n".join(lines)
    text = re.sub(r"!\[[^\]]*\]\([^)]*\)", "", text)
    text = re.sub(r"\{[\w:]+\}`([^`<]*?)\s*(?:<[^`]*>)?`", r"\1", text)
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text)
    text = re.sub(r"`[^`]*`", "code", text)
    return re.sub(r"\$[^$]+\$", "x", text)


def sentences(text: str) -> list[str]:
    """Return the sentences of a page's prose; an item of a list or a definition ends one."""
    found = []
    for paragraph in re.split(r"\n\s*\n|\n(?=\s*(?:[-*]|\d+\.)\s|: )", prose(text)):
        line = " ".join(re.sub(r"^\s*(?:[-*]|\d+\.|:)\s+", "", paragraph).split())
        found += re.split(r"(?<=[.!?])[\"')*_]*\s+(?=[\"'(*_]*[A-Z0-9])", line)
    return [one for one in found if len(one.split()) > 2]


def mean_length(text: str) -> float:
    """Return the mean number of words of a page's sentences; 0 without any."""
    return statistics.fmean([len(one.split()) for one in found]) if (found := sentences(text)) else 0.0


def blocks_of_code(text: str) -> Iterator[str]:
    """Yield the code of a page, of Python and of the shell."""
    fence = r"^[ \t]*`{3,}(?:\{code-block\} )?(?:python|bash)\n(.*?)^[ \t]*`{3,}$"
    yield from re.findall(fence, text, re.DOTALL | re.MULTILINE)


def main_pages() -> list[Path]:
    """Return the README, the home page, and what the menu lists above *Evidence*."""
    menu = (DOCS / "index.md").read_text()
    above = menu[: menu.index(":caption: Evidence")]
    pages = [page for tree in re.findall(r"```\{toctree\}\n(.*?)```", above, re.DOTALL) for page in _listed(tree)]
    for page in list(pages):
        if (path := DOCS / f"{page}.md").is_file():
            trees = re.findall(r"```\{toctree\}\n(.*?)```", path.read_text(), re.DOTALL)
            pages += [str(Path(page).parent / name) for tree in trees for name in _listed(tree)]
    return [ROOT / "README.md", DOCS / "index.md", *(path for page in pages if (path := DOCS / f"{page}.md").is_file())]


def _listed(tree: str) -> list[str]:
    return [line.strip() for line in tree.splitlines() if line.strip() and not line.startswith(":")]


def all_pages() -> list[Path]:
    """Return the README and every page of the documentation that is written by hand."""
    made = {"_build", "generated", "tutorials", "_static"}
    pages = [path for path in sorted(DOCS.rglob("*.md")) if not made & set(path.relative_to(DOCS).parts)]
    return [ROOT / "README.md", *pages]


def check(path: Path) -> list[str]:
    """Return what is to be mended on a page, a sentence each.

    Parameters
    ----------
    path
        A page in Markdown.

    Returns
    -------
    list of str
        Sentences that begin with the page's path; none if all is well.
    """
    text, found = path.read_text(), []
    running = re.sub(
        r"^(`{3,})(?!\{(?:figure|image|table|grid|glossary|dropdown))[^\n]*\n.*?^\1$",
        "",
        text,
        flags=re.DOTALL | re.MULTILINE,
    )
    for phrase, better in BANNED.items():
        for match in re.finditer(phrase, running, re.IGNORECASE):
            around = " ".join(running[max(0, match.start() - 30) : match.end() + 30].split())
            found.append(f"{match.group(0)!r} in '... {around} ...': say {better}")
    for block in blocks_of_code(text):
        found += [
            f"{len(line)} characters of code: {line.strip()}" for line in block.splitlines() if len(line) > CODE_WIDTH
        ]
    if path in main_pages():
        words, most = len(text.split()), README_WORDS if path.name == "README.md" else WORDS
        if words > most:
            found.append(f"{words:,} words, more than {most:,}")
        if (mean := mean_length(text)) > MEAN:
            found.append(f"sentences of {mean:.1f} words on average, more than {MEAN:g}")
    return [f"{path.relative_to(ROOT)}: {each}" for each in found]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a line of figures for each page and what is to be mended, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pages", nargs="*", type=Path)
    asked = parser.parse_args(arguments)
    pages = [path.resolve() for path in asked.pages] or all_pages()
    for path in pages:
        text, kind = path.read_text(), "main" if path in main_pages() else ""
        print(f"{len(text.split()):6,} words {mean_length(text):5.1f} a sentence {kind:5} {path.relative_to(ROOT)}")
    found = [each for path in pages for each in check(path)]
    print("\n".join(["", *found]) if found else "\nNothing to mend.")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
