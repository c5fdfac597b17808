"""Networks, their initial weights and their optimizers."""
