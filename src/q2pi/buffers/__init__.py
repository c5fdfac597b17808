"""The memory of value-based learners: a ring of single frames, what keeps the frames, and ways to draw from it."""
