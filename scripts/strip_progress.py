"""Take progress bars out of executed notebooks: they are of the moment, and as text they fill a page.

python scripts/strip_progress.py tutorials/*.ipynb
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

BAR = re.compile(r"\d+%\|.*\||: \d+ \w+ \[[\d:]+, ")
MOVE = re.compile(r"\x1b\[[0-9]*[A-D]")
"""Moves of the cursor between bars."""


def strip(path: Path) -> None:
    """Drop the lines of bars from what cells wrote to stderr, and outputs that are empty then."""
    notebook = json.loads(path.read_text(encoding="utf-8"))
    for cell in notebook["cells"]:
        for output in cell.get("outputs", ()):
            if output.get("name") == "stderr":
                lines = re.split(r"[\r\n]", MOVE.sub("", "".join(output["text"])))
                output["text"] = [f"{line}\n" for line in lines if line.strip() and not BAR.search(line)]
        if "outputs" in cell:
            cell["outputs"] = [output for output in cell["outputs"] if output.get("name") != "stderr" or output["text"]]
    path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    for name in sys.argv[1:]:
        strip(Path(name))
