from __future__ import annotations

import pytest
import torch

from scjepa.tokens import source as memory


def test_the_processor_has_memory_left():
    free = memory.available_memory()
    assert free is not None
    assert 2**24 < free < 2**50
    assert memory.available_memory(torch.device("cpu")) is not None


def test_an_unknown_device_is_not_guessed_at():
    assert memory.available_memory("meta") is None


def test_a_container_has_what_its_limit_leaves(tmp_path, monkeypatch):
    for name, text in {"max": "1000\n", "current": "700\n", "stat": "anon 1\ninactive_file 50\n"}.items():
        (tmp_path / f"memory.{name}").write_text(text)
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    assert memory.available_memory() == 350
    (tmp_path / "memory.max").write_text("max\n")
    assert memory.available_memory() > 1000


@pytest.mark.parametrize(
    ("n", "text"),
    [(0, "0 bytes"), (1023, "1023 bytes"), (1536, "1.5 KiB"), (5 * 2**20, "5.0 MiB"), (2**42, "4096.0 GiB")],
)
def test_bytes_are_told_in_words(n, text):
    assert memory.readable_bytes(n) == text
