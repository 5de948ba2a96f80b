"""``python -m lift_core.cli``."""

import sys

from lift_core.cli import main

if __name__ == "__main__":
    sys.exit(main())
