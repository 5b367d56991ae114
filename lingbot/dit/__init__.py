"""The causal diffusion transformer: model, caches, noise schedule and sampler."""
