"""Seeded fuzzers; README.md in this folder says what each does and how to run it."""
