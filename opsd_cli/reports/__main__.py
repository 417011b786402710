"""Draw the picture of a finished run: `python -m opsd_cli.reports RUN_DIR PICTURE.png`."""

from __future__ import annotations

import argparse
from pathlib import Path

from opsd_cli.reports.picture import write_picture


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m opsd_cli.reports", description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("picture", type=Path)
    given = parser.parse_args()
    print(write_picture(given.run, given.picture))


if __name__ == "__main__":
    main()
