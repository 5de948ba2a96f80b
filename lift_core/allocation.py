"""Memory that allocators keep for the next batch instead of handing it back to the system, and its pages."""

from __future__ import annotations

import ctypes
import os
import sys

import torch

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
"""Parameters of glibc's ``mallopt``, see ``man 3 mallopt``."""


def tune_allocator() -> bool:
    """Let glibc reuse freed blocks of any size, and torch ask for huge pages; True where the process runs on glibc.

    By default glibc returns each large block to the system, and the next batch pays for the same pages again: about a
    third of the time of a pass over a language model on a CPU. In pages of 4 KiB, matrix products with results of many
    megabytes wait for translations of addresses. The price is that the process stays as large as it ever was, and a
    few percent of memory. Call it before the first tensor is made: torch looks up what it is told of pages once. What
    the environment says of ``THP_MEM_ALLOC_ENABLE`` holds.
    """
    if not sys.platform.startswith("linux"):
        return False
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(_MMAP_MAX, 0)) and bool(mallopt(_TRIM_THRESHOLD, 2**31 - 1))


def free_bytes_of_gpu(device: torch.device) -> int:
    """What a CUDA device has free; that which torch keeps for reuse counts as free."""
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(torch.cuda.mem_get_info(device)[0]) + kept
