"""Runs of `dashpot train`: a folder, its settings, start and resume."""
