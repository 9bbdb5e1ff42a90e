"""Candidates that a generator writes: prompts, what comes back, and what must not be among it. No Ray."""
