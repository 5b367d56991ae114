"""The errors that a caller of this room can cause.

Tested in `tests/lingbot/runtime/test_engine.py`.
"""


class LingbotError(ValueError):
    """A value that the model cannot take. The text is safe to show to a user.

    `field` names the wrong argument, if one is wrong: a field of `SessionSpec`, `actions`,
    `prompt`, `preset` or `weights`.
    """

    def __init__(self, text: str, *, field: str | None = None) -> None:
        super().__init__(text)
        self.field = field


class WeightsError(LingbotError):
    """A checkpoint folder that cannot be read."""


class SessionClosed(LingbotError):
    """A step of a session that is not open."""
