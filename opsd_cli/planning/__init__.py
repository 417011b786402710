"""Tokens and memory that a run will take, said before it starts."""
