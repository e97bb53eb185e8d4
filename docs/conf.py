"""Configuration of the documentation."""

from __future__ import annotations

import os
import sys
import tomllib
import warnings
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import _cli  # noqa: E402
import _tables  # noqa: E402

import scjepa  # noqa: E402

project = "scjepa"
author = "The scjepa developers"
copyright = "2026, The scjepa developers"
version = release = scjepa.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.intersphinx",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx_autodoc_typehints",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinxcontrib.bibtex",
]

templates_path = ["_templates"]
exclude_patterns = ["_build", "Thumbs.db", ".DS_Store", "**.ipynb_checkpoints", "tutorials/README.md"]
suppress_warnings = [
    "ref.python",  # names of attributes, such as n_cells, that several classes have
    "config.cache",  # autosummary_context holds a function
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
autosummary_context = {"own": _tables.own_members}

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


def _source_url() -> str:
    """Return the address of the repository, which pyproject.toml says."""
    return tomllib.loads((HERE.parent / "pyproject.toml").read_text())["project"]["urls"]["Source"]


html_theme = "sphinx_book_theme"
html_title = "scjepa"
html_static_path = ["_static"]
html_css_files = ["scjepa.css"]
html_theme_options = {
    "navbar_persistent": [],  # the sidebar has the search
    "path_to_docs": "docs",
    "repository_branch": "main",
    "repository_url": _source_url(),
    "show_toc_level": 2,
    "use_download_button": False,
    "use_edit_page_button": True,
    "use_fullscreen_button": False,
    "use_issues_button": True,
    "use_repository_button": True,
}

# Of the extension's own making, once for each function.
warnings.filterwarnings("ignore", category=DeprecationWarning, module="sphinx_autodoc_typehints")
warnings.filterwarnings("ignore", category=PendingDeprecationWarning, module="sphinx_autodoc_typehints")

_tables.write(HERE)
_cli.write(HERE)
