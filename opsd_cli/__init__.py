"""The half of opsd that every backend shares; it imports neither torch nor mlx."""

__version__ = "0.1.0"
