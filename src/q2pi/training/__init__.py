"""The training loop, its events, and presets."""
