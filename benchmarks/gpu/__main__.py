"""Starts the GPU kit."""

import sys

from benchmarks.gpu.kit import KIT
from benchmarks.proof.parent import main

if __name__ == "__main__":
    sys.exit(main(KIT))
