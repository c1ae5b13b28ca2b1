"""Engines, which run the stages of a recipe on tensors. The eager engine is the reference for the faster engines."""
