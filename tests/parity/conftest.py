"""The backends' fixtures, here too."""

from tests.support.backend_fixtures import backend, load, model_folder

__all__ = ["backend", "load", "model_folder"]
