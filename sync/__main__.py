"""`python -m sync` is the command `localstore sync`."""

from __future__ import annotations

import sys

from localstore.cli import main

if __name__ == "__main__":
    main(["sync", *sys.argv[1:]])
