"""The answer to a request over HTTP, a refusal included, with no socket left open.

`urllib` raises a refusal as an error that holds its socket, of which the garbage collector warns.
"""

import urllib.error
import urllib.request
from typing import NamedTuple


class Answer(NamedTuple):
    """What a server has sent. Header names are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes


def answer_to(request: str | urllib.request.Request, *, timeout_s: float = 30.0) -> Answer:
    """The answer to a URL or a request. Raises OSError if none comes."""
    try:
        response = urllib.request.urlopen(request, timeout=timeout_s)
    except urllib.error.HTTPError as error:
        response = error
    with response:
        headers = {name.lower(): value for name, value in response.headers.items()}
        return Answer(response.status, headers, response.read())
