"""One run on several devices: data-parallel, with one process in charge.

Rank 0 runs the command as it runs on one device: it alone reads the problems, grades, keeps the
ledger, decides, and writes. Its policy is a `ParallelPolicy`, which gives each call of the seam out
in shares; the processes of the other ranks hold a replica of the model and do what they are told
(`worker`). So nothing above the seam knows of ranks, and no decision can differ between them.

    placement   which rank this process has, and who started it
    dealing     which items are whose: a rule that knows lengths alone
    connections between rank 0 and the others
    messages    that they send: calls, results, progress, failures
    control     both ends, and what happens when the other one is lost
    heartbeat   whether the other processes still run
    share       what one rank does of a call
    policy      rank 0's policy
    worker      the loop of the other ranks
    ranks       starts the others, or meets those that a launcher started

Messages go over authenticated connections of the standard library; gradients, which are large, go
by the framework's own collectives (`backends.interface.GradientExchange`).
"""
