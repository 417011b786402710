"""The fixtures of every backend's tests."""

from tests.support.backend_fixtures import backend, load, model_folder

__all__ = ["backend", "load", "model_folder"]
