"""Alignment of a pool with a target by entropic optimal transport."""
