"""A Python client; its command line is `python -m transport.client`."""

from transport.client.chunk_reader import Chunk
from transport.client.client import Client
from transport.client.connect import DEFAULT_URL, connect
from transport.client.news import News, Reconnected, Reconnecting

__all__ = ["DEFAULT_URL", "Chunk", "Client", "News", "Reconnected", "Reconnecting", "connect"]
