"""Measure a model on target rows: likelihoods, multiple choice, and how sure the numbers are."""

from evoray.evaluation.intervals import bootstrap_mean, paired_difference, paired_difference_seeds, summarise
from evoray.evaluation.likelihood import RowScore, grouped_token_losses, score_rows, token_losses

__all__ = [
    "RowScore",
    "bootstrap_mean",
    "grouped_token_losses",
    "paired_difference",
    "paired_difference_seeds",
    "score_rows",
    "summarise",
    "token_losses",
]
