"""What features are by their names."""

import numpy as np
import pytest

from scjepa._core.features import ANTIBODY, CONTROL, GENE, MITOCHONDRIAL, RIBOSOMAL, kinds_of

NAMES = {
    MITOCHONDRIAL: ("MT-CO1 mt-Nd1 mt-Rnr2 MT.CO3 Mt-nd4 mt:CoI CYTB ND4L MT-ATP6").split(),
    RIBOSOMAL: (
        "RPL3 Rpl13a RPS4X RPS4Y1 RPLP0 Rplp1 RPSA RPL22L1 RPS27L Rpl10-ps3 RPL7P1 RPL13AP5 Rn18s Rn18s-rs5 "
        "Rn45s RNA18S5 Rpl36al"
    ).split(),
    CONTROL: (
        "BLANK_0012 Blank-7 blank1 NegControlProbe_00042 NegControlCodeword_0500 NegPrb3 Negative01 NegPrb01 "
        "UnassignedCodeword_0001 DeprecatedCodeword_0321 SystemControl12 FalseCode3 antisense_PROKR2 "
        "Intergenic_Region_12 ERCC-00002 NegProbe-WTX negative_control_3 DEPRECATED_ENSG1"
    ).split(),
    ANTIBODY: ("CD3_TotalSeqB CD8A-TotalSeqC ADT_CD4 HTO_1 Hashtag3 mouse_IgG2a_control IgG1_isotype").split(),
    GENE: (
        "MT1A Mt2 MTOR RPS6KA1 Rps6kb1 RPS19BP1 Mrpl12 RPTOR Blnk Gad1 MALAT1 ENSG00000198888 Cd8a Ighg1 "
        "COX4I1 Abl1 NDUFA4 ATP6V0C RPRM Rplp Rnf5 NEGR1 CLEC7A"
    ).split(),
}


@pytest.mark.parametrize("kind", NAMES)
def test_a_name_tells_what_a_feature_is(kind):
    found = dict(zip(NAMES[kind], kinds_of(NAMES[kind]), strict=True))
    assert found == dict.fromkeys(NAMES[kind], kind)


def test_what_the_file_says_goes_before_the_name():
    types = ["Gene Expression", "Antibody Capture", "Negative Control Codeword", "Gene Expression"]
    assert kinds_of(["CD3D", "CD3D.1", "x", "MT-ND1"], types).tolist() == [GENE, ANTIBODY, CONTROL, MITOCHONDRIAL]
    with pytest.raises(ValueError, match="feature_types has 1"):
        kinds_of(["a", "b"], ["Gene Expression"])


def test_no_names_are_no_features():
    assert kinds_of(np.array([], dtype=str)).shape == (0,)
