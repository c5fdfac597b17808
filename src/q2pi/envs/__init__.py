"""Environments: specifications, protocols, observations and vectors of environments; `make` constructs them."""
