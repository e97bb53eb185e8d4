"""Configuration of the documentation."""

from __future__ import annotations

import inspect
import os
import shutil
import sys
import tomllib
import warnings
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import _cli  # noqa: E402
import _tables  # noqa: E402
import _thumbnails  # noqa: E402
from docutils import nodes  # noqa: E402

import scjepa  # noqa: E402

if TYPE_CHECKING:
    from sphinx.application import Sphinx

project = "scjepa"
author = "The scjepa developers"
copyright = "2026, The scjepa developers"
version = release = scjepa.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.intersphinx",
    "sphinx.ext.linkcode",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx_autodoc_typehints",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinxcontrib.bibtex",
    "sphinxext.opengraph",
]

templates_path = ["_templates"]
exclude_patterns = [
    "_build",
    "Thumbs.db",
    ".DS_Store",
    "**.ipynb_checkpoints",
    "tutorials/README.md",
    "tutorials/embryo_atlas",
]
suppress_warnings = [
    "ref.python",  # names of attributes, such as n_cells, that several classes have
    "sphinx_autodoc_typehints.forward_reference",
    "sphinx_autodoc_typehints.guarded_import",
]

# Notebooks are executed before they are committed (make notebooks) and shown as they are.
nb_execution_mode = "off"
nb_merge_streams = True
myst_enable_extensions = ["amsmath", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3

bibtex_bibfiles = ["references.bib"]
bibtex_reference_style = "author_year"

napoleon_google_docstring = False
napoleon_numpy_docstring = True
napoleon_use_rtype = True
napoleon_use_ivar = True
napoleon_use_param = True
napoleon_preprocess_types = False
typehints_defaults = "braces"
always_use_bars_union = True
autodoc_member_order = "bysource"
toc_object_entries_show_parents = "hide"
autosummary_generate = True
autosummary_context = {
    "own": _tables.Call("_tables:own_members"),
    "picture": _tables.Call("_figures:of_entry"),
    "tutorials": _tables.Call("_thumbnails:calls"),
}

# Links to other packages need their inventories from the network, which a build must not depend on.
intersphinx_mapping = (
    {
        "anndata": ("https://anndata.readthedocs.io/en/stable", None),
        "lightning": ("https://lightning.ai/docs/pytorch/stable", None),
        "numpy": ("https://numpy.org/doc/stable", None),
        "pandas": ("https://pandas.pydata.org/docs", None),
        "python": ("https://docs.python.org/3", None),
        "scanpy": ("https://scanpy.readthedocs.io/en/stable", None),
        "scipy": ("https://docs.scipy.org/doc/scipy", None),
        "scvi": ("https://docs.scvi-tools.org/en/stable", None),
        "squidpy": ("https://squidpy.readthedocs.io/en/stable", None),
        "torch": ("https://docs.pytorch.org/docs/stable", None),
    }
    if "READTHEDOCS" in os.environ
    else {}
)


URLS = tomllib.loads((HERE.parent / "pyproject.toml").read_text())["project"]["urls"]
BRANCH = "main"

# One file that holds all of MathJax with its glyphs; setup() copies it, so that no page asks the network for anything.
mathjax_path = "mathjax/tex-svg.js"


def linkcode_resolve(domain: str, info: dict[str, str]) -> str | None:
    """Return the address of an object's source in the repository, for its ``[source]`` link."""
    if domain != "py" or not info["module"]:
        return None
    thing: object = import_module(info["module"])
    for part in info["fullname"].split("."):
        thing = getattr(thing, part, None)
    thing = inspect.unwrap(thing.fget if isinstance(thing, property) else thing)  # type: ignore[arg-type]
    try:
        path = Path(inspect.getsourcefile(thing) or "").relative_to(HERE.parent)  # type: ignore[arg-type]
        lines, first = inspect.getsourcelines(thing)  # type: ignore[arg-type]
    except (TypeError, ValueError, OSError):  # data, an attribute, or what another package defines
        return None
    return f"{URLS['Source']}/blob/{BRANCH}/{path.as_posix()}#L{first}-L{first + len(lines) - 1}"


html_theme = "sphinx_book_theme"
html_title = f"scjepa {release}"
html_static_path = ["_static"]
html_css_files = ["scjepa.css"]
html_favicon = "_static/favicon.svg"
html_theme_options = {
    "logo": {
        "alt_text": "scjepa, home",
        "image_dark": "_static/logo_dark.svg",
        "image_light": "_static/logo.svg",
        "text": f"scjepa {release}",
    },
    "navbar_persistent": [],  # the sidebar has the search
    "path_to_docs": "docs",
    "repository_branch": BRANCH,
    "repository_url": URLS["Source"],
    "show_navbar_depth": 1,
    "show_toc_level": 2,
    "use_download_button": False,
    "use_edit_page_button": True,
    "use_fullscreen_button": False,
    "use_issues_button": True,
    "use_repository_button": True,
}

ogp_site_url = URLS["Documentation"]
ogp_site_name = "scjepa"
ogp_image = "_static/gallery/embryo_niches.png"
ogp_image_alt = "A mouse embryo in the colors of the niches that scjepa found along its body axis"
ogp_social_cards = {"enable": False}  # the picture above, not one drawn for each page

# Of the extension's making, once for each function.
warnings.filterwarnings("ignore", category=DeprecationWarning, module="sphinx_autodoc_typehints")
warnings.filterwarnings("ignore", category=PendingDeprecationWarning, module="sphinx_autodoc_typehints")

_tables.write(HERE)
_thumbnails.write(HERE)
_cli.write(HERE)


def _copy_mathjax(app: Sphinx, error: Exception | None) -> None:
    """Put MathJax where pages look for it."""
    (package,) = find_spec("sphinx-mathjax-offline").submodule_search_locations  # type: ignore[union-attr,misc]
    if error is None and app.builder.format == "html":
        place = Path(app.outdir) / "_static" / mathjax_path
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(Path(package) / "static" / mathjax_path, place)


def _describe_figures(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Give the figures in a notebook's output a text, which is the section they are in: they come without any."""
    for image in doctree.findall(nodes.image) if docname.startswith("tutorials/") else ():
        section = image.parent
        while section is not None and not isinstance(section, nodes.section):
            section = section.parent
        if not image.get("alt") and section is not None:
            image["alt"] = f"Figure: {section.next_node(nodes.title).astext()}"


def _point_edit_links(
    app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: nodes.document | None
) -> None:
    """Let *Suggest edit* lead to a file that is there: of the API to none, of tutorials to the notebooks' folder."""
    for group in context.get("header_buttons", ()):
        buttons = group.get("buttons", ())
        if pagename.startswith("generated/"):
            group["buttons"] = [one for one in buttons if one.get("label") != "source-edit-button"]
        for one in buttons:
            one["url"] = str(one.get("url", "")).replace("/docs/tutorials/", "/tutorials/")


def setup(app: Sphinx) -> None:
    """Add to the build what needs code."""
    app.connect("doctree-resolved", _describe_figures)
    app.connect("html-page-context", _point_edit_links, priority=900)  # after the theme's
    app.connect("build-finished", _copy_mathjax)
