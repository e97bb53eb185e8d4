"""Small pictures of the tutorials for their gallery, taken from the notebooks as they are committed."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

from PIL import Image

WIDTH = 560
SHOWN = {
    "xenium": 3,
    "visium": 0,
    "visium_hd": 0,
    "atlas": 0,
    "pretrained": 0,
    "other_tools": -1,
    "why": 0,
    "how_many": 0,
    "niches": 2,
    "sections": -1,
    "technologies": 0,
    "cohort": 0,
    "new_section": 0,
    "pbmc": 1,
    "perturbation": 0,
    "diagnostics": 0,
}
"""Which picture of a notebook stands for it, counted from 0; the last one of a notebook that is not here."""


def pictures(notebook: Path) -> list[bytes]:
    """Return the pictures in the output of a notebook, PNG, in their order."""
    cells = json.loads(notebook.read_text())["cells"]
    outputs = [output for cell in cells for output in cell.get("outputs", ())]
    found = [output["data"]["image/png"] for output in outputs if "image/png" in output.get("data", {})]
    return [base64.b64decode("".join(each)) for each in found]


def calls(fullname: str) -> list[str]:
    """Return the names of the tutorials whose code calls a function, at most five."""
    found = []
    for notebook in sorted((Path(__file__).parent / "tutorials").glob("*.ipynb")):
        cells = json.loads(notebook.read_text())["cells"]
        if any(f"{fullname}(" in "".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"):
            found.append(notebook.stem)
    return found[:5]


def write(docs: Path) -> None:
    """Write a picture for each notebook into the folder ``generated/thumbnails``."""
    folder = docs / "generated" / "thumbnails"
    folder.mkdir(parents=True, exist_ok=True)
    for notebook in sorted((docs / "tutorials").glob("*.ipynb")):
        path = folder / f"{notebook.stem}.png"
        if path.is_file() and path.stat().st_mtime > notebook.stat().st_mtime:  # an unchanged page is not built again
            continue
        if found := pictures(notebook):
            number = SHOWN.get(notebook.stem, -1)
            with Image.open(io.BytesIO(found[number if number < len(found) else -1])) as image:
                image.thumbnail((WIDTH, WIDTH))
                image.convert("RGB").quantize(128).save(path, optimize=True)
