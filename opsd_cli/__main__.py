"""`python -m opsd_cli` is `opsd`."""

from opsd_cli.cli.app import main

if __name__ == "__main__":
    main()
