"""Kernels in C++: one source text per recipe, compiled once per machine, kept in a per-user cache."""
