"""The embedded world: a renderer, an autoencoder and a small DiT that play on a laptop."""
