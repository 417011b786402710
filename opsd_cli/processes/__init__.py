"""Processes that opsd starts: each imports our packages and ends with its parent."""
