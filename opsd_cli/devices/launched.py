"""Processes that a launcher starts side by side: torchrun, `srun`, an MPI launcher.

All run the same command. Rank 0 runs it; the others become its workers.
"""

from __future__ import annotations

from contextlib import suppress

from opsd_cli.errors import OpsdError


def work_if_asked() -> bool:
    """Work for rank 0 until it ends, if this process has another rank; False if it has not.

    Raises:
        UsageError: a launcher's variables make no sense.
        BackendMissing: rank 0 cannot be reached.
    """
    # Imported here: the command line first refuses another project's `backends`.
    from backends.shared.placement import recognised

    if recognised().rank == 0:
        return False
    from backends.parallel.ranks import join_as_worker
    from backends.parallel.worker import serve

    channel = join_as_worker()
    if channel is not None:
        serve(channel)
    return True


def dismiss_unmet() -> None:
    """Let the other processes go, where this one is rank 0 and ends without having met them."""
    from opsd_cli.processes import import_check

    with suppress(OpsdError):  # a command that ended with this error has reported it
        import_check.require_own_backends()
        from backends.shared.placement import recognised

        if recognised().size > 1:
            from backends.parallel import ranks

            ranks.dismiss_unmet()
