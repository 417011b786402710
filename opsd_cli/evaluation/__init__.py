"""Accuracy of a policy on benchmarks, and the directory that keeps its samples."""
