"""The proof kit of CUDA GPUs: `python -m benchmarks.gpu --out DIR`."""
