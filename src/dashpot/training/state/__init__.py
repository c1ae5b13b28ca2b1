"""State of a fit, and the checkpoint files that hold it."""
