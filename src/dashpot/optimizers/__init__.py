"""Optimizers: torch.optim-compatible classes, each a recipe run by the engine."""
