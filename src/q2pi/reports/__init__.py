"""Figures, videos and pages, made from run folders."""
