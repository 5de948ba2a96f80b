"""What made a result: the commit of the package's checkout, and the machine."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch


def provenance() -> dict[str, Any]:
    """``commit``, where there is one, and ``machine``: the processor's name, its threads and those that torch uses."""
    commit = describe_commit(Path(__file__).parents[1])
    machine = {"cpu": cpu_name(), "cpu_threads": os.cpu_count(), "threads": torch.get_num_threads()}
    return ({} if commit is None else {"commit": commit}) | {"machine": machine}


def describe_commit(checkout: Path) -> str | None:
    """``git describe --always --dirty``; None without git, or where ``checkout`` is no root of a repository.

    A package that was installed below another repository has no commit of that one.
    """
    if not (checkout / ".git").exists():
        return None
    try:
        command = ["git", "-C", str(checkout), "describe", "--always", "--dirty"]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None


def cpu_name(info: Path = Path("/proc/cpuinfo")) -> str:
    """The model, or what Python knows of the processor where the system does not say."""
    try:
        lines = info.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())
