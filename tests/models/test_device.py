"""Devices that are not there are refused with those that are."""

from __future__ import annotations

import pytest
import torch

import scjepa
from scjepa.training import fit as _device
from scjepa.training.fit import check_device, device_of, one_device


@pytest.fixture
def machine(monkeypatch):
    """Let the machine have some devices."""

    def has(**devices):
        monkeypatch.setattr(_device, "existing_devices", lambda: {"cpu": 1, **devices})

    return has


@pytest.mark.parametrize("name", ["gpu", "cuda", "mps"])
def test_a_machine_without_gpu_says_so(machine, name):
    machine()
    with pytest.raises(ValueError, match=rf"accelerator='{name}' asks .* it finds 1 cpu. Pass accelerator='auto'"):
        check_device(name)
    for allowed in ("auto", "cpu"):
        check_device(allowed)
        assert device_of(allowed) == torch.device("cpu")


def test_more_devices_than_there_are_are_refused(machine):
    machine(cuda=2)
    for devices in (1, 2, -1, "auto", [0, 1], "0,1"):
        check_device("gpu", devices)
    for devices in (3, 0, -2, [2], [], [-1]):
        with pytest.raises(ValueError, match=r"are not there; torch finds 1 cpu, 2 cuda. Pass devices='auto'"):
            check_device("gpu", devices)
        with pytest.raises(ValueError, match="are not there"):
            check_device("auto", devices)
    with pytest.raises(ValueError, match="'mps' asks"):
        check_device("mps")
    assert device_of("auto").type == device_of("gpu").type == "cuda"


def test_unknown_accelerators_are_named(machine):
    machine()
    with pytest.raises(ValueError, match=r"Unknown accelerator 'gpus'. Did you mean 'gpu'"):
        check_device("gpus")


def test_train_and_load_refuse_them(trained, tmp_path, machine):
    machine()
    model, adata = trained
    steps = model.n_steps_
    for arguments in ({"accelerator": "gpu"}, {"accelerator": "cuda", "devices": 2}, {"accelerator": "warp"}):
        with pytest.raises(ValueError, match="accelerator"):
            model.train(progress_bar=False, **arguments)
    with pytest.raises(ValueError, match="Lightning cannot train like that"):
        model.train(accelerator="cpu", progress_bar=False, fast_dev_run=-1)
    assert model.n_steps_ == steps
    model.save(tmp_path / "m")
    with pytest.raises(ValueError, match="accelerator='gpu' asks"):
        scjepa.STJEPA.load(tmp_path / "m", adata, accelerator="gpu")


def test_weights_go_to_one_device(machine):
    assert one_device("auto") == one_device("cpu") == torch.device("cpu")
    machine(cuda=2)
    assert one_device("auto") == torch.device("cuda:0")
    assert one_device("gpu", 1) == one_device("cuda", "1") == torch.device("cuda:1")
    assert one_device("cpu", 5) == torch.device("cpu")
    for device in (2, -1, "0,1", [0, 1], True):
        with pytest.raises(ValueError, match=r"device=.* is not there; it is the index of one of 2 cuda"):
            one_device("gpu", device)
    machine(mps=1)
    assert one_device("auto") == torch.device("cpu")
    assert one_device("mps") == torch.device("mps:0")
    with pytest.raises(ValueError, match="asks for a device that torch does not find"):
        one_device("cuda")
