"""Sequence parallelism: how the ranks of a group share one model."""
