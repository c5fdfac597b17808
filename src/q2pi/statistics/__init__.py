"""Scores in few numbers, each with its uncertainty."""
