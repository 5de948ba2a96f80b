"""One command at a time in a folder of results."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from lift_core.records import CheckpointError

try:
    import fcntl
except ImportError:  # Windows, where nobody is held off
    fcntl = None


@contextmanager
def alone_in(folder: Path | None) -> Generator[None]:
    """Make the folder and hold it until the end; the lock goes with the process, and leaves no file. None: nothing.

    A folder that was made here and is still empty at the end is removed.

    Raises:
        CheckpointError: if another process holds it.
    """
    if folder is None or fcntl is None:
        yield
        return
    is_new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CheckpointError(
                f"--out: another process is at work in {folder}; wait for it, or choose another folder"
            ) from None
        yield
    finally:
        os.close(handle)
        if is_new and not any(folder.iterdir()):
            folder.rmdir()
