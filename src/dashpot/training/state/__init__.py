"""State of a fit, and checkpoint files."""
