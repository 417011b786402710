"""Child processes that import the right packages and end with their parent."""
