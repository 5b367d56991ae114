"""Golden folders: figures of the public reference, compared with ours."""
