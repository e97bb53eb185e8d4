from __future__ import annotations

import re
import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import scjepa
from scjepa._core.features import about_features, no_genes, types_of

CONTROLS = """NegPrb0 NegPrb12 NegProbe-WTX Negative1 Negative_01 NegControlProbe_00042 NegControlCodeword_0500
    BLANK_0001 Blank-1 blank1 BLANK antisense_PROKR2 UnassignedCodeword_0001 DeprecatedCodeword_1 Intergenic_Region_1
    SystemControl12 FalseCode7 ERCC-00002""".split()
ANTIBODIES = ["CD3-TotalSeqB", "CD8a_TotalSeqC", "ADT_CD19", "HTO-3", "Hashtag1"]
GENES = "Gad1 ERCC1 NEGR1 BLNK HTRA1 ADTRP Hto NELFE TOTAL1 ENSMUSG00000000001 ANTXR1".split()


@pytest.mark.parametrize("name", CONTROLS)
def test_control_probes_and_spike_ins_are_told_by_their_names(name):
    assert list(no_genes([name])) == ["control probes"]


@pytest.mark.parametrize("name", ANTIBODIES)
def test_antibodies_are_told_by_their_names(name):
    assert list(no_genes([name])) == ["antibodies"]


@pytest.mark.parametrize("name", GENES)
def test_genes_are_genes(name):
    assert not no_genes([name])


def cells(names, **var) -> ad.AnnData:
    counts = np.ones((5, len(names)), dtype=np.float32)
    return ad.AnnData(counts, var=pd.DataFrame(var, index=list(names)), obsm={"spatial": np.zeros((5, 2))})


@pytest.mark.parametrize("category", [False, True])
def test_kinds_are_read_where_they_are_told(category):
    types = ["Antibody Capture", "Gene Expression", "Negative Control Probe", None, "CRISPR Guide Capture"]
    adata = cells(["CD3", "Gad1", "Negative9", "Gad2", "sgA"], feature_types=types)
    if category:
        adata.var["feature_types"] = adata.var["feature_types"].astype("category")
    text = about_features(adata.var_names, types_of(adata.var))
    assert text.startswith(
        "Among the 5 features are 1 control probes ('Negative9') and 1 antibodies ('CD3') and 1 'CRISPR Guide Capture' "
        "('sgA'), which count as genes."
    )
    assert scjepa.datasets.only_genes(adata).var_names.tolist() == ["Gad1", "Gad2"]
    # Where nothing is said to be a gene, as in a panel of proteins, the column tells nothing apart.
    assert about_features(["CD3", "CD4"], pd.Series(["Antibody Capture"] * 2, name="feature_types")) is None


def test_the_advice_can_be_followed():
    names = [*CONTROLS, *ANTIBODIES, *GENES]
    adata = cells(names)
    call = re.search("To leave them out: (.*)\\.$", about_features(adata.var_names))[1]
    followed = {"adata": adata, "scjepa": scjepa}
    exec(call, followed)
    assert followed["adata"].var_names.tolist() == GENES
    assert about_features(followed["adata"].var_names) is None
    assert adata.n_vars == len(names)  # the user's object stays
    with pytest.raises(ValueError, match="None of the 1 features is a gene, such as 'NegPrb0'"):
        scjepa.datasets.only_genes(cells(["NegPrb0"]))


def test_a_new_model_tells_of_them_and_a_loaded_one_does_not(tmp_path):
    adata = cells([*CONTROLS[:4], *GENES[:3]])
    scjepa.CellJEPA.setup_anndata(adata)
    with pytest.warns(UserWarning, match=r"4 control probes \('NegPrb0', 'NegPrb12', 'NegProbe-WTX', \.\.\.\)"):
        model = scjepa.CellJEPA(adata, preset="demo")
    model.save(tmp_path / "model")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        scjepa.CellJEPA.load(tmp_path / "model", adata)
