"""Run folders: executing, recording, reading and scheduling runs."""
