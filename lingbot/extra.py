"""Libraries of the extra `[checkpoints]`, imported only where published weights need them."""

from importlib import import_module
from types import ModuleType

from lingbot.errors import LingbotError


def import_extra(name: str) -> ModuleType:
    """Import a library of the extra. Raises LingbotError, which names the extra, without it."""
    try:
        return import_module(name)
    except ImportError as exc:
        raise LingbotError(
            f"published weights need {name}: pip install 'lingbot-serve[checkpoints]' ({exc})"
        ) from exc
