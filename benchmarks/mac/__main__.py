"""Starts the Mac kit."""

import sys

from benchmarks.mac.kit import KIT
from benchmarks.proof.parent import main

if __name__ == "__main__":
    sys.exit(main(KIT))
