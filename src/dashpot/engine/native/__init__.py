"""Kernels in C++: one source text per recipe, compiled once per machine and stored in a per-user cache."""
