"""Reading configuration files and presets."""
