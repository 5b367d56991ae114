"""A Python client; its command line is `python -m transport.client`."""

from transport.client.client import DEFAULT_URL, Chunk, Client, connect

__all__ = ["DEFAULT_URL", "Chunk", "Client", "connect"]
