"""The lab: claims of the road from Q-learning to policy gradients as experiments with a figure and a verdict."""
