"""The camera: keys and pose files to relative poses, poses to Plücker maps."""
