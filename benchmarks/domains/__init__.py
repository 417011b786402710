"""Five small domains beside arithmetic: problems, a base model and a run of OPSD for each.

`python -m benchmarks.domains --out domains` makes all of it; docs/domains.md has the results.
"""
