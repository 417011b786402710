"""Accuracy of a policy on benchmarks, and the directory that holds its samples."""
