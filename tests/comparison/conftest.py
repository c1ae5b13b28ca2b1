"""Settings of all tests of this folder."""

from disk_flush import without_flush

__all__ = ["without_flush"]
