"""A solver in a process of its own: for libraries that cannot share one with others, and that nobody else can stop."""

from __future__ import annotations

import atexit
import pickle
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any


class WorkerError(Exception):
    """What a worker replied instead of an answer, or that it broke down."""


class Worker:
    """A script of this folder that answers pickled requests on its standard input; started when it is first asked.

    Args:
        script: its file name.

    The script reads one dictionary after another from standard input and writes one for each to standard output:
    the answer, or ``{"error": sentence}``. It ends when its input does.
    """

    def __init__(self, script: str) -> None:
        self._script = Path(__file__).with_name(script)
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        atexit.register(self.close)

    def ask(self, request: dict[str, Any], *, timeout: float) -> dict[str, Any]:
        """The answer to one request.

        Raises:
            TimeoutError: if there is none after ``timeout`` seconds; the process is then ended.
            WorkerError: if it replies with an error, or ends without a reply.
        """
        with self._lock:
            process = self._running()
            late = threading.Event()
            timer = threading.Timer(min(timeout, threading.TIMEOUT_MAX), lambda: (late.set(), process.kill()))
            timer.start()
            try:
                reply = self._exchange(process, request)
            except (EOFError, OSError, pickle.UnpicklingError) as error:
                self.close()
                if late.is_set():
                    raise TimeoutError(f"no answer within {timeout:g} seconds") from error
                raise WorkerError(f"its process ended with code {process.returncode} and no answer") from error
            except BaseException:  # Ctrl-C: the process would go on with a request that nobody waits for
                self.close()
                raise
            finally:
                timer.cancel()
        if "error" in reply:
            raise WorkerError(reply["error"])
        return reply

    def close(self) -> None:
        """End the process, if there is one; the next request starts another."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    with suppress(OSError):  # a request that nobody read
                        stream.close()

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            self.close()
            self._process = subprocess.Popen(
                [sys.executable, "-P", str(self._script)],  # -P: no module of this folder hides a package
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C reaches this process alone
            )
        return self._process

    @staticmethod
    def _exchange(process: subprocess.Popen[bytes], request: dict[str, Any]) -> dict[str, Any]:
        assert process.stdin is not None and process.stdout is not None
        pickle.dump(request, process.stdin)
        process.stdin.flush()
        return pickle.load(process.stdout)
