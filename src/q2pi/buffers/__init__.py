"""Replay and rollout buffers: a ring of single frames, its frame stores and samplers; rollouts and episodes."""
