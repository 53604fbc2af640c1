"""`python -m localstore` is the `localstore` command."""

from __future__ import annotations

from localstore.cli import main

if __name__ == "__main__":
    main()
