"""What a device can do at best: bytes per second of a large copy, operations per second of a large matrix product."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch


def bandwidth(device: str, *, size: int = 1 << 28) -> float:
    """Bytes read and written per second by copying ``size`` numbers of float64."""
    size = size if device == "cuda" else min(size, 1 << 25)
    source = torch.randn(size, dtype=torch.float64, device=device)
    target = torch.empty_like(source)
    return 2 * 8 * size / median_seconds(lambda: target.copy_(source), device)


def matrix_rate(device: str, dtype: torch.dtype, *, size: int = 8192) -> float:
    """Operations per second of a product of square matrices of random numbers."""
    size = size if device == "cuda" else min(size, 2048)
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    return 2 * size**3 / median_seconds(lambda: a @ b, device)


def median_seconds(call: Callable[[], object], device: str, *, repeats: int = 10, warm_up: int = 3) -> float:
    """Median time of a call, the device's work included."""
    seconds: list[float] = []
    for _ in range(warm_up + repeats):
        synchronize(device)
        began = time.perf_counter()
        call()
        synchronize(device)
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds[warm_up:])


def synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def device_name(device: str) -> str:
    return torch.cuda.get_device_name() if device == "cuda" else "CPU"
