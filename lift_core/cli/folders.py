"""One command at a time in a folder of results."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from lift_core.records import CheckpointError

try:
    import fcntl
except ImportError:  # Windows, where nobody is held off
    fcntl = None


@contextmanager
def alone_in(folder: Path | None) -> Generator[None]:
    """Make the folder and hold it until the end; the lock goes with the process, and leaves no file. None: nothing.

    A folder that was made here and is still empty at the end is removed. On file systems without locks nobody is held
    off.

    Raises:
        CheckpointError: if another process holds it.
    """
    if folder is None:
        yield
        return
    is_new = True
    try:
        folder.mkdir(parents=True)
    except (FileExistsError, NotADirectoryError):
        if not folder.is_dir():
            raise ValueError(f"--out: expected a folder, but {folder} is or lies under a file") from None
        is_new = False
    if fcntl is None:
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        _lock(handle, folder)
        try:
            yield
        finally:
            if is_new:
                with suppress(OSError):  # it holds something, or is gone
                    folder.rmdir()
    finally:
        os.close(handle)


def _lock(handle: int, folder: Path) -> None:
    assert fcntl is not None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise CheckpointError(
            f"another process is at work in {folder}; wait for it, or choose another folder with --out"
        ) from None
    except OSError:
        return  # a file system without locks
    if not folder.exists() or not os.path.samestat(os.fstat(handle), folder.stat()):
        raise CheckpointError(f"another process has just removed {folder}; try again")
