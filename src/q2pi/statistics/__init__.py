"""Summary statistics of scores, with confidence intervals."""
