"""What the proof kits share: sections in processes of their own, budgets, JSON and table.

A kit (`benchmarks.gpu`, `benchmarks.mac`) is one command that measures what only one kind of
machine can show. Each of its sections runs in a child process with a time budget and writes every
row at once, so that whatever ends early leaves what it has.
"""
