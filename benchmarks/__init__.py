"""Benchmarks: one command, tables and pictures. Run as ``python -m benchmarks``."""
