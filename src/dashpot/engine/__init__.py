"""Engines run the stages of a recipe on tensors. The eager one is the oracle; faster ones fuse the same functions."""
