"""Recipes, which define a method as an immutable sequence of stages, and conversions between forms of momentum."""
