"""The renderer: a small language of scenes, and walks through them."""
