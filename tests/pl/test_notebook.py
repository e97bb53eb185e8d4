"""What a notebook shows below its cells, as for scanpy and squidpy: every figure, and each once."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import scjepa

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")

SOURCE = str(Path(scjepa.__file__).parents[1])

FIRST = (
    f"import sys; sys.path.insert(0, {SOURCE!r})"
    + """
import os, warnings
os.environ["MPLBACKEND"] = "module://matplotlib_inline.backend_inline"  # as a kernel does that inherits none
warnings.simplefilter("ignore")
import anndata as ad, matplotlib.pyplot as plt, numpy as np, pandas as pd, scjepa
from IPython.display import display
rng = np.random.default_rng(0)
obs = pd.DataFrame({"niche": pd.Categorical(list("ab") * 20), "cell_type": list("xyxz") * 10})
adata = ad.AnnData(rng.poisson(2.0, (40, 3)).astype("float32"), obs=obs, obsm={"spatial": rng.uniform(size=(40, 2))})
"""
)

CELLS = {
    "one call": ("scjepa.pl.niches(adata)", 1),
    "two calls": ("scjepa.pl.niches(adata)\nscjepa.pl.composition(adata)", 2),
    "a loop": ("for key in ['niche', 'cell_type']:\n    scjepa.pl.niches(adata, key)\n    print(key)", 2),
    "an assigned result": ("found = scjepa.pl.niches(adata)\nassert found is None", 1),
    "show=True at the end": ("scjepa.pl.niches(adata, show=True)", 1),
    "show=False, then changed": ("ax = scjepa.pl.niches(adata, show=False)\nax.set_title('mine');", 1),
    "show=False, then shown": ("ax = scjepa.pl.niches(adata, show=False)\nplt.show()", 1),
    "shown again later": ("display(ax.figure)", 1),
    "plt.savefig": ("scjepa.pl.niches(adata)\nplt.savefig('here.png')\nprint(os.path.getsize('here.png'))", 1),
    "save=": ("scjepa.pl.niches(adata, save='./there.png')", 1),
    "axes of the user's": (
        "fig, (left, right) = plt.subplots(1, 2)\nscjepa.pl.niches(adata, ax=left)\n"
        "scjepa.pl.composition(adata, ax=right);",
        1,
    ),
}


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    """Return what each cell put out, and the folder it ran in."""
    folder = tmp_path_factory.mktemp("notebook")
    cells = [nbformat.v4.new_code_cell(text) for text in (FIRST, *(text for text, _ in CELLS.values()))]
    notebook = nbformat.v4.new_notebook(cells=cells)
    client = nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3")
    client.create_kernel_manager().kernel_spec_manager  # noqa: B018 - of the Python that runs the tests
    client.km.kernel_spec.argv[0] = sys.executable
    client.execute(cwd=str(folder))
    return dict(zip(CELLS, (cell.outputs for cell in cells[1:]), strict=True)), folder


@pytest.mark.parametrize("name", CELLS)
def test_each_figure_is_shown_once(outputs, name):
    images = [out for out in outputs[0][name] if "image/png" in out.get("data", {})]
    assert len(images) == CELLS[name][1]
    assert not any(out["output_type"] == "error" for out in outputs[0][name])


def test_figures_are_saved_whole(outputs):
    found, folder = outputs
    assert int(found["plt.savefig"][0]["text"]) > 5_000
    assert (folder / "there.png").stat().st_size > 5_000
