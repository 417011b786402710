"""Configuration: the schema, its sections and bounds, the presets, and how preset, file, `--set`
and flags are resolved to one `Config`."""
