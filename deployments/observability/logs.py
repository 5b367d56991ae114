"""Logging of a replica's process. Serve configures its own logger and no other.

Tested in `tests/deployments/test_sockets.py`.
"""

import logging

ROOMS = ("deployments", "lingbot", "transport")


def configure_logging() -> None:
    """Write our rooms' lines, from INFO on, to this process's stderr. It may be called again."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(levelname)s %(asctime)s %(name)s -- %(message)s"))
    for room in ROOMS:
        logger = logging.getLogger(room)
        logger.setLevel(logging.INFO)
        logger.handlers = [handler]
