"""What a caller of this room can get wrong."""


class LingbotError(ValueError):
    """A value the model cannot take. The text is safe to show to a user.

    ``field`` names the argument that is wrong, where one is.
    """

    def __init__(self, text: str, *, field: str | None = None) -> None:
        super().__init__(text)
        self.field = field


class WeightsError(LingbotError):
    """A checkpoint folder that cannot be read as what it claims to be."""


class SessionClosed(LingbotError):
    """A step of a session that is not there, or not there any more."""
