"""Text encoders: prompts to the contexts that cross-attention reads."""
