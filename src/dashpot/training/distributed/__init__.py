"""Devices, precision, processes and data sharding."""
