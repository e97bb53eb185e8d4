from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scjepa.perturbation import CATEGORIES, PerturbationSplit, condition_name, simulation_split

GENES = [f"G{i}" for i in range(12)]
SCREENS = st.lists(st.lists(st.sampled_from(GENES), min_size=1, max_size=2, unique=True), min_size=6, max_size=40).map(
    lambda each: sorted({condition_name(genes) for genes in each})
)


def _split_or_none(*args, **options):
    try:
        return simulation_split(*args, **options)
    except ValueError as error:
        if "no perturbation to train on" not in str(error):  # the draw may leave none in a screen this small
            raise
        return None


@settings(max_examples=60, deadline=None)
@given(SCREENS, st.integers(0, 50), st.floats(0.3, 1.0), st.floats(0.3, 1.0), st.booleans())
def test_every_condition_is_in_one_part_and_categories_are_right(conditions, seed, genes, combos, validation):
    how = {"train_gene_size": genes, "combo_size": combos, "validation": validation}
    split = _split_or_none([*conditions, "ctrl"], seed, **how)
    if split is None:
        return
    placed = [name for names in split.parts().values() for name in names]
    assert sorted(placed) == conditions
    assert set(split.test) == set(CATEGORIES)
    assert validation or not split.validation
    seen = set(split.train_genes)
    singles = {name for name in conditions if name.endswith("+ctrl")}
    for category, names in split.test.items():
        for name in names:
            n_seen = sum(gene in seen for gene in name.split("+"))
            assert category == ("single" if name in singles else f"combo_seen{n_seen}")
            assert split.part_of(name) == category
    assert not {f"{gene}+ctrl" for gene in set(GENES) - seen} & set(split.train)
    assert all(set(name.split("+")) - {"ctrl"} <= seen for name in (*split.train, *split.validation))
    assert {f"{gene}+ctrl" for gene in seen} & singles <= {*split.train, *split.validation}
    assert split == simulation_split(conditions[::-1], seed, **how)


@settings(max_examples=30, deadline=None)
@given(SCREENS, st.integers(0, 9))
def test_without_validation_a_category_counts_the_singles_in_training(conditions, seed):
    every = sorted({*conditions, *(f"{gene}+ctrl" for gene in GENES)})
    split = simulation_split(every, seed, validation=False)
    for category, names in split.test.items():
        expected = 0 if category == "single" else int(category[-1])
        assert [split.n_singles_seen(name) for name in names] == [expected] * len(names)


def test_the_seed_decides():
    every = [f"{a}+{b}" for a in GENES for b in GENES if a < b] + [f"{gene}+ctrl" for gene in GENES]
    assert simulation_split(every, 1) != simulation_split(every, 2)
    split = simulation_split(every, 1)
    assert len(split.train_genes) == 9
    assert {category: len(names) for category, names in split.test.items()} == {
        "single": 3,
        "combo_seen0": 3,
        "combo_seen1": 27,
        "combo_seen2": 9,
    }


def test_a_split_is_saved_and_read_again(tmp_path):
    split = simulation_split(["A", "B", "C", "D", "A+B", "C+D"], 3)
    split.save(tmp_path / "split.json")
    assert PerturbationSplit.load(tmp_path / "split.json") == split


def test_a_split_of_one_s_own():
    split = PerturbationSplit(train=("A", "ctrl"), test={"mine": ("B+A",)})
    assert split.train == ("A+ctrl",)
    assert split.test_conditions == ("A+B",)
    assert split.part_of("B+A") == "mine"
    assert split.part_of("ctrl") == "train"
    assert split.part_of("C") is None
    assert split.n_singles_seen("A+B") == 1
    with pytest.raises(ValueError, match=r"'A\+ctrl' is in 'train' and in 'mine'"):
        PerturbationSplit(train=("A",), test={"mine": ("A+ctrl",)})


@pytest.mark.parametrize(
    ("conditions", "options", "message"),
    [
        (["A+B+C", "A"], {}, "'A\\+B\\+C' perturbs more"),
        (["A", "B"], {"train_gene_size": 0.0}, "train_gene_size must lie"),
        (["A", "B"], {"combo_size": 1.5}, "combo_size must lie"),
        (["ctrl"], {}, "no perturbation to train on"),
    ],
)
def test_what_cannot_be_split_is_refused(conditions, options, message):
    with pytest.raises(ValueError, match=message):
        simulation_split(conditions, **options)
