"""evoray."""
