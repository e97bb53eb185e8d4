"""Run one adapter: ``python worker ADAPTER FOLDER``, with ``input.h5ad`` and ``arguments.json`` in the folder.

Nothing of scjepa is imported: the interpreter is that of the peer, which may have none of what scjepa needs.

Writes ``output.npz``. An exception is the last line on stderr.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import json
import os
import platform
import random
import sys
import threading
import time
import traceback
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any


def versions(packages: tuple[str, ...]) -> dict[str, str]:
    """Return installed versions by distribution name."""
    found = {"python": platform.python_version()}
    for name in packages:
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def load(path: Path, name: str | None = None) -> Any:
    """Import a file under a name of its own, so that an adapter does not hide the package it calls."""
    spec = importlib.util.spec_from_file_location(name or f"scjepa_adapter_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is not a Python file.")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def import_packages(adapter: Path) -> None:
    """Import what the adapter's functions import, so that it is not counted as time of the method."""
    for node in ast.walk(ast.parse(adapter.read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            names = [str(node.module)]
        for name in names:
            with suppress(ImportError):  # perhaps it is not needed; else the method says so
                importlib.import_module(name)


def end_with_parent(parent: int) -> None:
    """End this process when its parent is gone: a killed benchmark leaves nothing running."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)


def main(adapter: Path, folder: Path) -> None:
    """Run the adapter on the folder's input."""
    # Of scjepa adapters have this alone, which needs nothing: how squidpy's functions are called.
    sys.modules["scjepa_squidpy"] = load(Path(__file__).parents[2] / "_core" / "squidpy.py", "scjepa_squidpy")
    module = load(adapter)
    memory = load(Path(__file__).parents[1] / "memory.py", "scjepa_memory")
    import_packages(adapter)
    import numpy as np
    from anndata import read_h5ad

    adata = read_h5ad(folder / "input.h5ad")
    arguments = json.loads((folder / "arguments.json").read_text())
    random.seed(arguments["seed"])
    np.random.seed(arguments["seed"])  # noqa: NPY002 - the packages draw from it
    start, cpu = time.perf_counter(), time.process_time()
    output = module.run(adata, **arguments)
    about = {
        "seconds": time.perf_counter() - start,
        "cpu_seconds": time.process_time() - cpu,
        "peak_gib": memory.peak_gib(),
        "versions": versions(module.PACKAGES),
        "info": output.pop("info", {}),
    }
    arrays: dict[str, Any] = {key: np.asarray(value) for key, value in output.items() if value is not None}
    if "clusters" in arrays:
        arrays["clusters"] = arrays["clusters"].astype(str)
    with open(folder / "output.part", "wb") as file:
        np.savez(file, about=np.array(json.dumps(about)), **arrays)
    os.replace(folder / "output.part", folder / "output.npz")


if __name__ == "__main__":
    threading.Thread(target=end_with_parent, args=(os.getppid(),), daemon=True).start()
    try:
        main(Path(sys.argv[1]), Path(sys.argv[2]))
    except Exception as error:  # noqa: BLE001 - whatever a peer raises is the reason of its row
        traceback.print_exc()
        # The reason in one line, the last.
        print(f"{type(error).__name__}: {' '.join(str(error).split())[:500]}", file=sys.stderr, flush=True)
        # Without the clean-up of libraries, which can hang or crash.
        os._exit(1)
