"""Run every benchmark, one after the other: `make bench`, or `python -m benchmarks`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
BENCHMARKS = ("start.py", "codec.py", "promotion.py", "cache.py", "blobs.py", "repository.py", "vectors.py")


def main() -> int:
    """Run them and return the first exit code that is not 0."""
    for name in BENCHMARKS:
        print(f"== {name}", flush=True)
        finished = subprocess.run([sys.executable, str(HERE / name), *sys.argv[1:]], check=False)
        if finished.returncode:
            return finished.returncode
    return 0


if __name__ == "__main__":
    sys.exit(main())
