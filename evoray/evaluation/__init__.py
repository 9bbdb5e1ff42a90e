"""Measure a model on target rows: likelihoods, multiple choice, and how sure the numbers are."""
