"""Figures, videos and HTML pages of runs."""
