"""That `backends` is the package that belongs to this one.

`backends` is an ordinary name. `python -m opsd_cli` puts the working directory first on the path,
and `PYTHONPATH` may put any other, so that another project's `backends` would be imported in place
of ours and fail somewhere within.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

from opsd_cli.errors import UsageError

NAME = "backends"
#: A line of ours: another distribution installed later could have replaced the file in its place.
MARK = b'OWNER = "opsd"'


def require() -> None:
    """Check, without importing it, that `backends` lies beside this package.

    So it does in a wheel's installation, in an editable one and in a checkout.

    Raises:
        UsageError: another `backends` would be imported.
    """
    ours = Path(__file__).resolve().parents[2] / NAME
    try:
        spec = importlib.util.find_spec(NAME)
    except ValueError:  # put into sys.modules by hand
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
