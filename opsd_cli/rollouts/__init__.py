"""A step's rollouts: drawn, graded, replaced, drawn ahead, and weighed against the trainer."""
