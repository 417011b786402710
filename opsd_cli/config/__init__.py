"""Settings: schema, bounds, presets, and how preset, file, `--set` and flags combine."""
