from __future__ import annotations

import time

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from scjepa._core.neighbors import spatial_blocks
from scjepa.metrics import ari, block_bootstrap, nmi

SKLEARN = {"nmi": normalized_mutual_info_score, "ari": adjusted_rand_score}


def _noisy(labels: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    wrong = rng.random(len(labels)) < share
    return np.where(wrong, rng.integers(labels.max() + 2, size=len(labels)), labels)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    score=st.sampled_from(["nmi", "ari"]),
    n=st.integers(8, 120),
    n_labels=st.integers(1, 4),
    n_blocks=st.integers(2, 8),
)
def test_it_is_what_scoring_the_drawn_cells_gives(seed, score, n, n_labels, n_blocks):
    rng = np.random.default_rng(seed)
    labels, places = rng.integers(n_labels, size=n), rng.random((n, 2))
    a, b = [_noisy(labels, 0.3, rng) for _ in range(3)], [_noisy(labels, 0.6, rng) for _ in range(2)]
    result = block_bootstrap(labels, a, b, places, score=score, n_bootstrap=20, n_blocks=n_blocks, seed=seed)

    blocks = spatial_blocks(places, None, -(-n // n_blocks))
    n_found = blocks.max() + 1
    counts = np.random.default_rng(seed).multinomial(n_found, np.full(n_found, 1 / n_found), size=20)
    naive = []
    for drawn in counts:
        cells = np.concatenate([np.tile(np.flatnonzero(blocks == i), times) for i, times in enumerate(drawn)])
        means = [np.mean([SKLEARN[score](labels[cells], c[cells]) for c in method]) for method in (a, b)]
        naive.append(means[0] - means[1])
    np.testing.assert_allclose(result.resampled, naive, atol=1e-9)
    whole = [np.mean([SKLEARN[score](labels, c) for c in method]) for method in (a, b)]
    assert result.score_a == pytest.approx(whole[0])
    assert result.score_b == pytest.approx(whole[1])
    assert result.difference == pytest.approx(whole[0] - whole[1])
    np.testing.assert_allclose([result.lower, result.upper], np.quantile(naive, [0.025, 0.975]), atol=1e-9)
    assert result.n_blocks == n_found


def _stripes(n: int = 1000) -> tuple[np.ndarray, np.ndarray, np.random.Generator]:
    rng = np.random.default_rng(0)
    places = rng.random((n, 2))
    return np.floor(places[:, 0] * 5).astype(int), places, rng


def test_a_clear_gain_is_above_zero_and_no_gain_is_not():
    labels, places, rng = _stripes()
    good, bad, worse = ([_noisy(labels, share, rng) for _ in range(4)] for share in (0.1, 0.4, 0.4))
    clear = block_bootstrap(labels, good, bad, places)
    assert 0 < clear.lower < clear.difference < clear.upper
    assert clear.share_above == 1
    none = block_bootstrap(labels, bad, worse, places)
    assert none.lower < 0 < none.upper
    other = block_bootstrap(labels, bad, good, places)
    assert other.difference == pytest.approx(-clear.difference)
    assert other.lower == pytest.approx(-clear.upper)
    same = block_bootstrap(labels, good, good, places)
    assert (same.difference, same.lower, same.upper, same.share_above) == (0, 0, 0, 0)


def test_a_higher_level_is_wider_and_seeds_repeat():
    labels, places, rng = _stripes(400)
    a, b = [_noisy(labels, 0.2, rng)], [_noisy(labels, 0.4, rng)]
    wide, narrow = (block_bootstrap(labels, a, b, places, level=level) for level in (0.99, 0.8))
    assert wide.lower < narrow.lower < narrow.upper < wide.upper
    np.testing.assert_array_equal(wide.resampled, narrow.resampled)
    assert (block_bootstrap(labels, a, b, places, seed=1).resampled != wide.resampled).any()


def test_unlabelled_cells_order_and_names_do_not_matter():
    labels, places, rng = _stripes(300)
    a, b = [_noisy(labels, 0.2, rng)], [_noisy(labels, 0.5, rng)]
    sections = rng.integers(2, size=300)
    names = pd.Series(labels.astype(str)).where(places[:, 1] < 0.8, "unlabelled")
    result = block_bootstrap(names, a, b, places, sections)
    kept = np.random.default_rng(1).permutation(np.flatnonzero(places[:, 1] < 0.8))
    again = block_bootstrap(labels[kept], [a[0][kept]], [b[0][kept]], places[kept], sections[kept])
    np.testing.assert_allclose(result.resampled, again.resampled, atol=1e-12)
    assert result.n_cells == len(kept)
    assert result.score_a == pytest.approx(nmi(names, a[0]))


def test_clusterings_come_as_arrays_frames_or_one_alone():
    labels, places, rng = _stripes(200)
    a, b = (np.array([_noisy(labels, 0.3, rng) for _ in range(3)]) for _ in range(2))
    expected = block_bootstrap(labels, list(a), list(b), places, n_bootstrap=9)
    for kind in (np.asarray, lambda c: pd.DataFrame(c.T)):
        found = block_bootstrap(labels, kind(a), kind(b), places, n_bootstrap=9)
        np.testing.assert_array_equal(found.resampled, expected.resampled)
    alone = block_bootstrap(labels, a[0], b[0].astype(str).tolist(), places, score="ari", n_bootstrap=9)
    assert alone.difference == pytest.approx(ari(labels, a[0]) - ari(labels, b[0]))


def test_a_thousand_resamples_of_ninety_clusterings_take_seconds():
    labels, places, rng = _stripes(5000)
    methods = [[_noisy(labels, 0.3, rng) * 3 + rng.integers(3, size=5000) for _ in range(45)] for _ in range(2)]
    begin = time.process_time()
    result = block_bootstrap(labels, *methods, places)
    assert time.process_time() - begin < 20
    assert len(result.resampled) == 1000


def test_bad_input_is_told():
    labels, places, _ = _stripes(20)
    with pytest.raises(ValueError, match="score must be one of nmi, ari; found 'ami'"):
        block_bootstrap(labels, [labels], [labels], places, score="ami")
    with pytest.raises(ValueError, match="level must lie strictly between 0 and 1, found 95"):
        block_bootstrap(labels, [labels], [labels], places, level=95)
    with pytest.raises(ValueError, match="clusterings_b is empty"):
        block_bootstrap(labels, [labels], [], places)
    with pytest.raises(ValueError, match="labels has 20 cells, clusters 19"):
        block_bootstrap(labels, [labels[1:]], [labels], places)
    with pytest.raises(ValueError, match="20 labelled cells have no cluster"):
        block_bootstrap(labels, [np.full(20, np.nan)], [labels], places)
    with pytest.raises(ValueError, match="None of the 20 cells has a label"):
        block_bootstrap([None] * 20, [labels], [labels], places)
    with pytest.raises(ValueError, match="coordinates has 19 rows for 20 cells"):
        block_bootstrap(labels, [labels], [labels], places[1:])
    with pytest.raises(ValueError, match="1 of 20 cells have NaN or infinite values in coordinates"):
        block_bootstrap(labels, [labels], [labels], np.where(places == places[0, 0], np.nan, places))
    with pytest.raises(ValueError, match="1 labelled cells make one block"):
        block_bootstrap(["a", *[None] * 19], [labels], [labels], places)
