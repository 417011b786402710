"""Reading and writing files so that a kill at any moment leaves each whole: atomic replacement,
append-only JSONL logs, advisory locks on directories, and errors that name the file."""
