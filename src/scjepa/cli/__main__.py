"""``python -m scjepa.cli``."""

from __future__ import annotations

import sys

from scjepa.cli import main

if __name__ == "__main__":
    sys.exit(main())
