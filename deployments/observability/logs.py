"""What a replica's log shows of us: Serve sets up its own logger and nobody else's."""

import logging

ROOMS = ("deployments", "lingbot", "transport")


def configure_logging() -> None:
    """Write our rooms' lines, from INFO on, to this process's stderr. May be called again."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(levelname)s %(asctime)s %(name)s -- %(message)s"))
    for room in ROOMS:
        logger = logging.getLogger(room)
        logger.setLevel(logging.INFO)
        logger.handlers = [handler]
