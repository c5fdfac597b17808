"""Evaluation of agents, blocking or in a subprocess."""
