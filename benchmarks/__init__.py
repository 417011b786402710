"""Measurements of speed, memory and statistics. README.md in this folder has the commands."""
