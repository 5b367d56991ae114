"""Everything that made the embedded pocket world: renderer, training and evaluation."""
