"""Small sections with planted niches, as objects and as files."""

from __future__ import annotations

import pytest
from planted import tissue

import scjepa


@pytest.fixture(scope="session")
def parts():
    """Three sections by name."""
    return {f"s{seed}": tissue(seed) for seed in range(3)}


@pytest.fixture
def files(parts, tmp_path):
    """A folder of three files."""
    folder = tmp_path / "study"
    folder.mkdir()
    for name, part in parts.items():
        part.write_h5ad(folder / f"{name}.h5ad", compression="gzip")
    return folder


@pytest.fixture
def collection(files, tmp_path):
    """The three files, prepared."""
    found = scjepa.Collection(files, folder=tmp_path / "prepared")
    found.prepare()
    return found


@pytest.fixture(scope="session")
def joined(parts):
    """Return a function that makes one object of sections, with the graph of squidpy."""
    from scjepa._core.squidpy import spatial_graph

    def join(named, n_neighs=10):
        plain = {name: part.copy() for name, part in named.items()}
        for part in plain.values():
            part.obs = part.obs[["band"]]
        both = scjepa.concat(plain)
        both.obs["section"] = both.obs["section"].cat.reorder_categories(list(named))
        spatial_graph(both, n_neighs=n_neighs, library_key="section")
        return both

    return join
