from __future__ import annotations

import pytest

from scjepa.datasets import read_gmt


def test_sets_are_read_in_order_without_repeats(tmp_path):
    path = tmp_path / "a.gmt"
    path.write_text("B\thttp://x\tG1\tG2\tG1\t\n\nA\t\tG3\n")
    assert read_gmt(path) == {"B": ("G1", "G2"), "A": ("G3",)}
    assert list(read_gmt(path)) == ["B", "A"]


@pytest.mark.parametrize(
    ("text", "message"),
    [("A\tonly a description\n", "Line 1 .* no gene"), ("A\t\tG1\nA\t\tG2\n", "twice.*line 2"), ("\n", "no gene set")],
)
def test_a_broken_file_is_told(tmp_path, text, message):
    path = tmp_path / "a.gmt"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_gmt(path)
