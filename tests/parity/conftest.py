"""The backends' fixtures, here too."""

from tests.backends.conftest import backend, load, model_folder

__all__ = ["backend", "load", "model_folder"]
