from __future__ import annotations

import pytest
import torch

from scjepa.config import TrainConfig
from scjepa.training.fit import LAST, RunOptions, make_trainer, resume_from, usable_precision
from scjepa.training.plan import History


def test_bf16_falls_back_where_the_hardware_has_none(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.warns(UserWarning, match="32 bits"):
        assert usable_precision("bf16-mixed", "auto") == "32-true"
    with pytest.warns(UserWarning, match="32 bits"):
        assert usable_precision("bf16-mixed", "cpu") == "32-true"
    assert usable_precision("32-true", "cpu") == "32-true"


def test_last_checkpoint_is_found_or_a_fresh_start(tmp_path):
    assert resume_from(RunOptions()) is None
    assert resume_from(RunOptions(checkpoint_dir=tmp_path, ckpt_path=LAST)) is None
    (tmp_path / "last.ckpt").write_bytes(b"x")
    assert resume_from(RunOptions(checkpoint_dir=tmp_path, ckpt_path=LAST)) == str(tmp_path / "last.ckpt")
    assert resume_from(RunOptions(ckpt_path=tmp_path / "last.ckpt")) == str(tmp_path / "last.ckpt")


def test_the_history_stays_beside_the_users_logger(tmp_path):
    from lightning.pytorch.loggers import CSVLogger

    theirs = CSVLogger(tmp_path)
    options = RunOptions(accelerator="cpu", progress_bar=False)
    trainer = make_trainer(TrainConfig(), options, logger=theirs)
    assert isinstance(trainer.logger, History)
    assert trainer.loggers[1] is theirs
    assert trainer.gradient_clip_val == 2.0
    assert trainer.max_steps == 1500


def test_history_survives_a_checkpoint_and_skips_what_is_not_finite():
    history = History()
    history.log_metrics({"loss": 1.0, "epoch": 0, "bad": float("nan")}, 3)
    history.log_metrics({"loss": 0.5}, 4)
    again = History()
    again.load_state_dict(history.state_dict())
    assert dict(again.values) == {"loss": [1.0, 0.5]}
    assert dict(again.steps) == {"loss": [3, 4]}


def test_every_process_keeps_the_history(monkeypatch):
    from lightning.pytorch.utilities import rank_zero_only

    monkeypatch.setattr(rank_zero_only, "rank", 1)
    history = History()
    history.log_metrics({"loss": 1.0}, 3)
    assert dict(history.values) == {"loss": [1.0]}


def test_one_device_is_taken_by_default():
    assert RunOptions().devices == 1
