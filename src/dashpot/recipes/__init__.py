"""Recipes: a method as one immutable value of stages, and the conversions between parametrisations."""
