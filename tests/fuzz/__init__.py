"""Seeded fuzzers: short forms run with the suite, long ones with `--long`."""
