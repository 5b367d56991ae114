"""Checkpoints on disk: the model and the parts that a folder holds, by its content."""
