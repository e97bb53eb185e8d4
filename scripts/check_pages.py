"""Look at every built page as a reader would, and say what is wrong with it; the exit code is 1 if anything is.

    make docs
    .venv/bin/python scripts/check_pages.py [FOLDER] [--only PATTERN] [--no-browser] [--screenshots FOLDER]

Without a browser: links within the site that lead nowhere, images that are missing or have no alternative text,
scripts, styles and images from other sites, notebooks that were not executed or that show warnings. In headless
Chromium, at 1300 and at 420 px: pages wider than the window, blocks cut off at the right, images that do not load, and
whatever a page fetches from elsewhere. ``--only`` takes a pattern such as ``"tutorials/*"``.

Only the standard library is used. The browser is the first of ``$CHROMIUM``, ``chromium``, ``chromium-browser`` and
``google-chrome``.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatch
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar
from urllib.parse import quote, unquote, urlsplit

ROOT = Path(__file__).parents[1]
WIDTHS = (1300, 420)
TALLEST = 9000
"""Pixels of a page that a screenshot shows at most."""

FETCHED = {
    ("script", "src"),
    ("img", "src"),
    ("iframe", "src"),
    ("source", "src"),
    ("video", "src"),
    ("object", "data"),
}
STYLES = {"stylesheet", "icon", "preload", "shortcut"}


class Page(HTMLParser):
    """The links, places, images and resources of an HTML page.

    Attributes
    ----------
    links
        What ``<a href>`` names.
    places
        Values of ``id`` and ``name`` that a link can lead to.
    images
        Pairs of source and alternative text; ``None`` where there is no such text.
    resources
        What a browser loads with the page: scripts, styles, images.
    """

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.places: set[str] = set()
        self.images: list[tuple[str, str | None]] = []
        self.resources: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note what one tag has to say."""
        found = dict(attrs)
        self.places |= {value for key in ("id", "name") if (value := found.get(key))}
        if tag == "a" and (target := found.get("href")):
            self.links.append(target)
        if tag == "img":
            self.images.append((found.get("src") or "", found.get("alt")))
        self.resources += [value for key, value in attrs if (tag, key) in FETCHED and value]
        if tag == "link" and STYLES & set((found.get("rel") or "").split()):
            self.resources.append(found.get("href") or "")


def is_elsewhere(address: str) -> bool:
    """Return whether an address names another site, not a file of this one or data in the page."""
    parts = urlsplit(address)
    return bool(parts.netloc) or parts.scheme in ("http", "https")


def dead_links(name: str, pages: Mapping[str, Page], folder: Path) -> Iterator[str]:
    """Yield a sentence for each link of a page that leads to no file, or to no place in it."""
    for link in dict.fromkeys(pages[name].links):
        parts = urlsplit(link)
        if is_elsewhere(link) or parts.scheme:  # mailto:, data:, javascript:
            continue
        path = ((folder / name).parent / unquote(parts.path)).resolve() if parts.path else (folder / name).resolve()
        path = path / "index.html" if path.is_dir() else path
        if not path.is_file():
            yield f"the link {link!r} leads to no file"
        elif path.is_relative_to(folder) and parts.fragment:
            other = pages.get(path.relative_to(folder).as_posix())
            if other is not None and unquote(parts.fragment) not in other.places:
                yield f"the link {link!r} leads to no place of that page"


def bad_images(name: str, page: Page, folder: Path) -> Iterator[str]:
    """Yield a sentence for each image that is missing, or that nothing is said of."""
    for source, text in page.images:
        if not is_elsewhere(source) and not source.startswith("data:"):
            if not ((folder / name).parent / unquote(urlsplit(source).path)).is_file():
                yield f"the image {source!r} is missing"
        if not (text or "").strip() or Path(text or "").suffix in (".png", ".svg"):
            yield f"the image {source[:80]!r} has no alternative text"


def outside_resources(page: Page) -> Iterator[str]:
    """Yield a sentence for each script, style or image that is loaded from another site."""
    for address in dict.fromkeys(page.resources):
        if is_elsewhere(address):
            yield f"{address!r} is loaded from another site"


def check_html(folder: Path, only: str = "*") -> list[str]:
    """Return what is wrong with built pages, as far as their text says it.

    Parameters
    ----------
    folder
        What Sphinx built.
    only
        Pattern of the pages to report on; links may lead to all.

    Returns
    -------
    list of str
        Sentences that begin with the page's name; none if all is well.
    """
    folder = folder.resolve()
    names = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*.html"))]
    pages = {name: Page((folder / name).read_text()) for name in names if not name.startswith("_static")}
    found = []
    for name in pages:
        if fnmatch(name, only):
            wrong = [*dead_links(name, pages, folder), *bad_images(name, pages[name], folder)]
            found += [f"{name}: {each}" for each in (*wrong, *outside_resources(pages[name]))]
    return found


def check_notebook(path: Path) -> list[str]:
    """Return what a reader should not see in a notebook: cells that were not executed, errors, and warnings."""
    found, last = [], 0
    for number, cell in enumerate(json.loads(path.read_text())["cells"]):
        if cell["cell_type"] != "code" or not "".join(cell["source"]).strip():
            continue
        count = cell.get("execution_count")
        if count is None or count <= last:
            found.append(f"{path.name}: cell {number} was not executed after the one before it")
        last = count or last
        for output in cell.get("outputs", ()):
            text = "".join(output.get("text", ""))
            if output["output_type"] == "error":
                found.append(f"{path.name}: cell {number} ends with {output.get('ename')}")
            elif output.get("name") == "stderr" or "Warning: " in text:
                found.append(f"{path.name}: cell {number} shows {text.strip()[:80]!r}")
    return found


LOOK = """<!doctype html><title>check</title><body style="margin:0"><iframe style="border:0;height:900px"></iframe>
<script>
const jobs = JOBS, results = [], frame = document.querySelector("iframe");
const seconds = n => new Promise(done => setTimeout(done, 1000 * n));
const named = e => e.tagName.toLowerCase() + (e.id ? "#" + e.id : "") + [...e.classList].map(c => "." + c).join("")
  + " " + JSON.stringify((e.textContent || "").trim().slice(0, 60));
async function look(page, width) {
  frame.style.width = width + "px";
  await Promise.race([new Promise(done => { frame.onload = done; frame.src = page; }), seconds(30)]);
  const inside = frame.contentDocument, root = inside.documentElement;
  await inside.fonts.ready;
  await frame.contentWindow.MathJax?.startup?.promise;
  const images = [...inside.images];
  for (const image of images) {
    image.loading = "eager";
    await Promise.race([image.decode().catch(() => 0), seconds(5)]);
  }
  const shown = e => e.getClientRects().length > 0 && getComputedStyle(e).visibility != "hidden";
  const article = [...inside.querySelectorAll("article *, main *")].filter(shown);
  const wide = root.scrollWidth <= root.clientWidth ? [] : article.filter(
    e => e.getBoundingClientRect().right > root.clientWidth + 1).slice(-3).map(named);
  const cut = article.filter(e => e.scrollWidth > e.clientWidth + 2
    && ["auto", "scroll", "hidden", "clip"].includes(getComputedStyle(e).overflowX)
    && e.clientWidth > 40).map(named);
  const broken = images.filter(i => shown(i) && !i.naturalWidth).map(i => i.getAttribute("src"));
  const fetched = frame.contentWindow.performance.getEntriesByType("resource").map(r => r.name);
  return {page, width, scroll: root.scrollWidth, client: root.clientWidth, height: root.scrollHeight,
    wide, cut, broken, outside: fetched.filter(name => !name.startsWith(location.origin) && !name.startsWith("data:"))};
}
(async () => {
  for (const [page, width] of jobs) {
    try { results.push(await look(page, width)); } catch (error) { results.push({page, width, error: String(error)}); }
  }
  await fetch("/__done__", {method: "POST", body: JSON.stringify(results)});
})();
</script>"""

SHOW = """<!doctype html><body style="margin:0">
<iframe src="{page}" style="border:0;width:{width}px;height:{height}px"></iframe>"""


class _Site(SimpleHTTPRequestHandler):
    """Serves the built pages, and the page that looks at them one after the other."""

    made: ClassVar[dict[str, str]] = {}
    answer: ClassVar[list[dict]] = []
    done: ClassVar[threading.Event] = threading.Event()

    def do_GET(self) -> None:
        """Answer with what this script made, or with a file."""
        text = self.made.get(self.path)
        if text is None:
            return super().do_GET()
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.end_headers()
        self.wfile.write(text.encode())
        return None

    def do_POST(self) -> None:
        """Take what the browser found."""
        self.answer[:] = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(204)
        self.end_headers()
        self.done.set()

    def log_message(self, *args: object) -> None:
        """Say nothing."""


def _browser() -> str:
    names = (os.environ.get("CHROMIUM", ""), "chromium", "chromium-browser", "google-chrome")
    for name in names:
        if name and (path := shutil.which(name)):
            return path
    raise SystemExit("No Chromium found: install it, name it in CHROMIUM, or pass --no-browser.")


def _command(profile: str, *arguments: str) -> list[str]:
    quiet = ["--disable-gpu", "--hide-scrollbars", "--disable-background-networking", "--no-first-run"]
    return [_browser(), "--headless", "--no-sandbox", *quiet, f"--user-data-dir={profile}", *arguments]


def look_at(folder: Path, names: Sequence[str], screenshots: Path | None = None, limit_s: float = 1200) -> list[dict]:
    """Return what Chromium found on each page at each width, and save pictures of them if asked.

    Parameters
    ----------
    folder
        What Sphinx built.
    names
        Pages, relative to it.
    screenshots
        Folder for a picture of each page at each width; ``None``: no pictures.
    limit_s
        Seconds that all pages may take together.

    Returns
    -------
    list of dict
        For each page and width: widths, height, what sticks out or is cut, what did not load, what came from elsewhere.
    """
    jobs = [["/" + quote(name), width] for name in names for width in WIDTHS]
    _Site.made = {"/__look__": LOOK.replace("JOBS", json.dumps(jobs))}
    _Site.answer, _Site.done = [], threading.Event()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Site, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    start = f"http://127.0.0.1:{server.server_port}"
    hush = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        browser = subprocess.Popen(_command(profile, f"{start}/__look__"), **hush)  # type: ignore[call-overload]
        try:
            if not _Site.done.wait(limit_s):
                raise SystemExit(f"Chromium did not finish within {limit_s:g} s.")
        finally:
            browser.terminate()
            browser.wait()
        for one in _Site.answer if screenshots is not None else ():
            _photograph(one, start, Path(str(screenshots)), profile)
    server.shutdown()
    return _Site.answer


def _photograph(one: Mapping, start: str, folder: Path, profile: str) -> None:
    """Save a picture of a page at a width, whole if it is not taller than ``TALLEST``."""
    folder.mkdir(parents=True, exist_ok=True)
    width, height = one["width"], min(one.get("height", 900), TALLEST)
    _Site.made["/__show__"] = SHOW.format(page=one["page"], width=width, height=height)
    name = one["page"].strip("/").removesuffix(".html").replace("/", "-")
    picture = [f"--window-size={width},{height}", f"--screenshot={folder / f'{name}-{width}.png'}"]
    wait = ["--virtual-time-budget=8000"]
    subprocess.run(_command(profile, *picture, *wait, f"{start}/__show__"), capture_output=True, timeout=120)


def about(one: Mapping) -> Iterator[str]:
    """Yield a sentence for each thing that is wrong with a page at a width."""
    name = f"{one['page'].lstrip('/')} at {one['width']} px"
    if "error" in one:
        yield f"{name}: {one['error']}"
        return
    if one["scroll"] > one["client"]:
        yield f"{name}: {one['scroll']} px wide, {'; '.join(one['wide']) or 'outside the article'}"
    if one["width"] == max(WIDTHS):  # on a telephone tables and code may scroll in their frame
        yield from (f"{name}: cut off at the right: {each}" for each in one["cut"])
    yield from (f"{name}: the image {each!r} does not load" for each in one["broken"])
    yield from (f"{name}: {each!r} is loaded from another site" for each in one["outside"])


def main(arguments: Sequence[str] | None = None) -> int:
    """Check what the command line names, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=ROOT / "docs" / "_build" / "html")
    parser.add_argument("--only", default="*", metavar="PATTERN", help="pages to look at")
    parser.add_argument("--no-browser", action="store_true", help="what the text of the pages says, alone")
    parser.add_argument("--screenshots", type=Path, metavar="FOLDER", help="save a picture of each page at each width")
    asked = parser.parse_args(arguments)
    if not (asked.folder / "index.html").is_file():
        parser.error(f"{asked.folder} holds no built pages: make docs")
    found = check_html(asked.folder, asked.only)
    for path in sorted((ROOT / "tutorials").glob("*.ipynb")):
        found += check_notebook(path) if fnmatch(f"tutorials/{path.stem}.html", asked.only) else []
    if not asked.no_browser:
        names = [path.relative_to(asked.folder).as_posix() for path in sorted(asked.folder.rglob("*.html"))]
        names = [name for name in names if fnmatch(name, asked.only) and not name.startswith("_static")]
        for one in look_at(asked.folder, names, asked.screenshots):
            found += about(one)
    print("\n".join(found) if found else "All pages are well.")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
