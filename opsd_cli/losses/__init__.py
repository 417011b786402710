"""Per-token losses with analytic gradients, written once over NumPy, torch and MLX."""
