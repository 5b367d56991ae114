"""Keys and pose files to relative poses, and poses to Plücker maps."""
