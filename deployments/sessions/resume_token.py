"""The token by which a client that lost its socket finds its world again.

Tested in `tests/deployments/test_resuming.py`.
"""

import re

from msgspec import Struct

PART = "[A-Za-z0-9_-]"
TOKEN = re.compile(f"({PART}{{1,64}})[.]({PART}{{1,64}})[.]({PART}{{16,128}})")


class ResumeToken(Struct, frozen=True):
    """Names a session and proves the right to it. It is url-safe, and its secret unguessable."""

    group_id: str
    session_id: str
    secret: str

    def __str__(self) -> str:
        return f"{self.group_id}.{self.session_id}.{self.secret}"


def parse_resume_token(text: str) -> ResumeToken | None:
    """None for a text that is no token."""
    match = TOKEN.fullmatch(text)
    return None if match is None else ResumeToken(*match.groups())
