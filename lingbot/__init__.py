"""The world model: weights, sessions and one step of a world. Knows no server."""
