"""The Ray Serve shells that join the model and the conversation."""
