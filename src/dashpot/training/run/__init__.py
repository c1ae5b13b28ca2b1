"""Runs of `dashpot train`: settings, folder, start and resume."""
