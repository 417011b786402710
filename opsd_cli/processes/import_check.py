"""A check that `import backends` finds the package that belongs to this one.

`backends` is a common name. `python -m opsd_cli` puts the working directory first on the import
path, and `PYTHONPATH` can put any other directory there, so that another project's `backends` would
be imported instead and fail somewhere inside.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

from opsd_cli.errors import UsageError

NAME = "backends"
#: A line of our `backends/__init__.py`. The location alone is not enough: a distribution installed
#: later can have replaced the file.
MARK = b'OWNER = "opsd"'


def require_own_backends() -> None:
    """Check, without importing it, that `backends` lies beside this package.

    That holds for an installed wheel, an editable installation and a checkout.

    Raises:
        UsageError: another `backends` would be imported.
    """
    ours = Path(__file__).resolve().parents[2] / NAME
    try:
        spec = importlib.util.find_spec(NAME)
    except ValueError:  # a module without a spec, put into sys.modules by hand
        return
    origin = spec.origin if spec is not None else None
    if origin is None:
        raise UsageError(
            f"the package {NAME!r} of opsd is not beside {ours.parent / 'opsd_cli'}",
            "install opsd-cli again",
        )
    found = Path(origin).resolve()
    where = found.parent if found.name == "__init__.py" else found
    if found.parent != ours:
        raise UsageError(
            f"another package {NAME!r} would be imported in place of opsd's: {where}",
            f"run `opsd`, or `python -P -m opsd_cli`; if PYTHONPATH names {where.parent}, take it "
            "out",
        )
    if MARK not in found.read_bytes():
        raise UsageError(
            f"another distribution has put its package {NAME!r} in place of opsd's: {where}",
            "install opsd-cli in an environment of its own",
        )
