"""Optimizers: classes compatible with torch.optim. Each class defines a recipe, which an engine runs."""
