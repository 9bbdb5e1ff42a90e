"""Selectors over sharded features: EvoSelect, random, everything."""
