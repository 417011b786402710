"""Tokens and memory that a run will take, estimated before it starts."""
