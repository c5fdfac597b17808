"""Evaluation of agents, in this process or in one beside training."""
