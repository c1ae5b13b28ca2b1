"""Helpers without knowledge of optimizers."""
