"""Golden folders: what the public reference computed, compared with what we compute."""
