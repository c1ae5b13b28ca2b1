"""Optimizers: classes compatible with torch.optim. Each is a recipe that the engine runs."""
