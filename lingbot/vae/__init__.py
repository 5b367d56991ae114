"""Images and latents: the autoencoders, and the codec that normalises their latents."""
