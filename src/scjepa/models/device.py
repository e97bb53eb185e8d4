"""Devices that are there, and errors for those that are not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from scjepa._core.options import unknown_name

_GPUS = ("cuda", "mps")
_NAMES = ("auto", "cpu", "gpu", *_GPUS)


def existing_devices() -> dict[str, int]:
    """Return the number of devices of each kind that this machine and this torch have; the CPU counts as one."""
    found = {"cpu": 1, "cuda": torch.cuda.device_count() if torch.cuda.is_available() else 0}
    found["mps"] = int(torch.backends.mps.is_available())
    return {name: n for name, n in found.items() if n}


def check_device(accelerator: Any, devices: Any = "auto") -> None:
    """Refuse an accelerator, or devices of it, that are not there.

    Parameters
    ----------
    accelerator
        Lightning's name; anything but a string passes.
    devices
        A number of devices, their indices, or ``"auto"``.

    Raises
    ------
    ValueError
        With the devices that are there and what to pass instead.
    """
    if not isinstance(accelerator, str):
        return
    if accelerator not in _NAMES:
        raise ValueError(unknown_name("accelerator", accelerator, _NAMES))
    found = existing_devices()
    there = ", ".join(f"{n} {name}" for name, n in found.items())
    wanted = _GPUS if accelerator == "gpu" else (accelerator,)
    if accelerator != "auto" and not any(name in found for name in wanted):
        raise ValueError(
            f"accelerator={accelerator!r} asks for a device that torch does not find here; it finds {there}. Pass "
            "accelerator='auto' for the best there is, or install a torch built for your GPU (https://pytorch.org)."
        )
    if accelerator == "cpu":
        return
    n_there = max((found[name] for name in (_GPUS if accelerator == "auto" else wanted) if name in found), default=0)
    if isinstance(devices, int) and not isinstance(devices, bool):
        missing = devices == 0 or devices < -1 or (n_there and devices > n_there)
    elif isinstance(devices, Sequence) and not isinstance(devices, str):
        missing = not devices or (n_there and any(not 0 <= int(i) < n_there for i in devices))
    else:
        missing = False
    if missing:
        raise ValueError(f"devices={devices!r} are not there; torch finds {there}. Pass devices='auto' for all.")


def device_of(accelerator: Any) -> torch.device:
    """Return the kind of device that ``accelerator`` stands for."""
    found = existing_devices()
    if accelerator == "cpu" or not isinstance(accelerator, str):
        return torch.device("cpu")
    # Lightning's "auto" takes MPS where there is one, as its "gpu" does.
    return torch.device(next((name for name in _GPUS if name in found), "cpu"))


def one_device(accelerator: Any, device: int | str = "auto") -> torch.device:
    """Return the device that weights go to.

    Parameters
    ----------
    accelerator
        Lightning's name. ``"auto"`` takes the first CUDA device, else the CPU: MPS only where it is asked for.
    device
        Index among the devices of this kind, as a number or a word, or ``"auto"``, the first. The CPU is one.

    Raises
    ------
    ValueError
        If there is no such accelerator or device.
    """
    check_device(accelerator)
    found = existing_devices()
    kind = device_of(accelerator).type
    if kind == "cpu" or (kind == "mps" and accelerator == "auto"):
        return torch.device("cpu")
    index = {"auto": "0"}.get(str(device), str(device))
    if not index.isdecimal() or int(index) >= found[kind]:
        raise ValueError(
            f"device={device!r} is not there; it is the index of one of {found[kind]} {kind}. Pass device='auto' for "
            "the first."
        )
    return torch.device(kind, int(index))
