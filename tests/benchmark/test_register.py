"""Methods that users add to those that comparisons know by name."""

from __future__ import annotations

import numpy as np
import pytest

from scjepa.benchmark import CELL_METHODS, METHODS, CellScoring, register, run, run_cells, run_method
from scjepa.benchmark.method import REGISTRY, groups_of


@pytest.fixture(autouse=True)
def _clean():
    """Forget what a test registers."""
    before = {suite: dict(methods) for suite, methods in REGISTRY.items()}
    yield
    for suite, methods in before.items():
        REGISTRY[suite].clear()
        REGISTRY[suite].update(methods)


def test_a_function_is_a_method_with_options_like_any_other(tissue, quick):
    @register("along", description="one of the coordinates")
    def along(adata, axis=0):
        return adata.obsm["spatial"][:, [axis]]

    assert METHODS["along"].options == ("axis",)
    assert "along" in groups_of(METHODS)["peers"]
    results = run(
        tissue,
        label="region",
        methods="along",
        options={"along": {"axis": 1}},
        tasks="within",
        seeds=2,
        scoring=quick,
    )
    assert list(results.runs["configuration"]) == ["axis=1"] * 2  # two sections; it knows no seed
    found = results.embedding("along", "data 1: s1")
    place = tissue.obsm["spatial"][tissue.obs["section"] == "s1"]
    np.testing.assert_allclose(found, place[:, [1]], rtol=1e-6)
    np.testing.assert_allclose(run_method("along", tissue).embedding, tissue.obsm["spatial"][:, [0]], rtol=1e-6)
    with pytest.raises(ValueError, match="Did you mean 'axis'"):
        run_method("along", tissue, options={"axes": 1})


def test_a_file_runs_in_a_process_of_its_own(tissue, adapter):
    path = adapter(
        """
        import os
        PACKAGES = ("numpy",)
        def run(adata, *, seed, settings, n_niches=None, factor=1.0):
            return {"embedding": adata.obsm["spatial"] * factor, "info": {"pid": os.getpid(), "settings": settings}}
        """,
        "mine.py",
    )
    register("mine", path, options=("factor",), settings=("tutorial",), needs="nothing")
    result = run_method("mine", tissue, options={"factor": 2.0})
    assert result.error is None
    np.testing.assert_allclose(result.embedding[:-1], 2 * tissue.obsm["spatial"][:-1], rtol=1e-6)
    assert result.info["settings"] == "tutorial"


def test_names_that_are_there_and_suites_that_are_not_are_refused():
    with pytest.raises(ValueError, match="'stjepa' is the name of a method"):
        register("stjepa", lambda adata: adata.X)
    with pytest.raises(ValueError, match="'controls' is the name"):
        register("controls", lambda adata: adata.X)
    with pytest.raises(ValueError, match="Unknown suite 'cell'"):
        register("mine", lambda adata: adata.X, suite="cell")


def test_a_method_of_cells_is_fitted_and_then_embeds(tissue):
    fitted = []

    @register("sums", suite="cells", title="Sums")
    def sums(adata, *, seed, batch_key=None, parts=3):
        fitted.append((adata.n_obs, batch_key))
        return lambda other: np.log1p(np.stack([other.X[:, i::parts].sum(axis=1).A1 for i in range(parts)], axis=1))

    assert CELL_METHODS["sums"].options == ("parts",)
    scoring = CellScoring(resolutions=(0.5,), fractions=(0.5,))
    results = run_cells(tissue, label="region", methods="sums", tasks="zero_shot", seeds=1, scoring=scoring)
    assert fitted == [(79, None)]
    assert results.runs["reason"].isna().all()
    assert "| Sums | fitted | plain |" in results.markdown()
