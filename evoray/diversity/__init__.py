"""Diversity of a weighted pool through one moment of its features: no N x N matrix."""
