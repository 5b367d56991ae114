"""The HTTP endpoints beside the socket."""
