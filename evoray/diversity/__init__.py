"""Diversity of a weighted pool through one moment of its features: no N x N matrix."""

from evoray.diversity.energies import Energy, EnergyName, Memory, make_energy, moment_of, vendi_score
from evoray.diversity.projection import project_rows, projection

__all__ = ["Energy", "EnergyName", "Memory", "make_energy", "moment_of", "project_rows", "projection", "vendi_score"]
