"""Runs: records, entries and settings shared by training and comparison."""
