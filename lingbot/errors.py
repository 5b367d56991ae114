"""The errors that a caller of this room can cause.

Tested in `tests/lingbot/runtime/test_engine.py`.
"""

from textwrap import shorten

MAX_WEIGHTS_REASON_CHARS = 400


class LingbotError(ValueError):
    """A value that the model cannot take. The text is safe to show to a user.

    `field` names the wrong argument, if one is wrong: a field of `SessionSpec`, `actions`,
    `prompt`, `contexts`, `exact`, `chunk_index`, `preset`, `weights`, `attention`, `compile` or
    `fp8`. A field of a snapshot has its path, such as `snapshot.chunks[2].pitch`.
    """

    def __init__(self, text: str, *, field: str | None = None) -> None:
        super().__init__(text)
        self.field = field


class WeightsError(LingbotError):
    """A checkpoint that cannot be read. The text is one line, which begins with the file."""

    def __init__(self, text: str, *, field: str | None = None) -> None:
        # torch lists the tensors that do not fit, one a line.
        super().__init__(shorten(text, MAX_WEIGHTS_REASON_CHARS, placeholder=" …"), field=field)


class SessionClosed(LingbotError):
    """A step of a session that is not open."""
