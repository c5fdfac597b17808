"""Hyperparameters of the algorithms, one file each, without torch; `algorithms/NAME.py` is the algorithm."""
