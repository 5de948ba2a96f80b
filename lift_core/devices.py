"""What a device is called, and whether it is there."""

from __future__ import annotations

import torch


def check_device(device: str | torch.device | None) -> None:
    """Refuse a device that torch does not know or see.

    Raises:
        ValueError: with what is there.
    """
    if device is None:
        return
    try:
        wanted = torch.device(device)
    except RuntimeError:
        raise ValueError(f"device: expected cpu, cuda, cuda:0, ... or None, got {device!r}") from None
    if wanted.type == "cuda" and (wanted.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device: torch sees {torch.cuda.device_count()} CUDA devices, got {str(device)!r}")
