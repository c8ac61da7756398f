"""Checkpoints of other projects, made into this project's."""
