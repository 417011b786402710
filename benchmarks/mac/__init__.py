"""The proof kit of Apple silicon: `python -m benchmarks.mac --out DIR`."""
