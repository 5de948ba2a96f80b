"""``python -m lift_core.study.child``: ``lift`` in a process that ends with the one that holds its standard input.

A study that is killed, by whatever signal, leaves no runs behind that hold cores and folders. What they have finished
is kept: checkpoints are written atomically.
"""

import os
import signal
import sys
import threading


def _end_with_the_parent() -> None:
    os.read(sys.stdin.fileno(), 1)  # nothing is ever written: returns when the other end is closed
    signal.raise_signal(signal.SIGTERM)


if __name__ == "__main__":
    threading.Thread(target=_end_with_the_parent, daemon=True).start()
    from lift_core.cli import main  # takes seconds, in which the parent may end

    sys.exit(main())
