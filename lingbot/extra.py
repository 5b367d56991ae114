"""Libraries of the extra `[checkpoints]`, imported only where published weights need them."""

from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

from lingbot.errors import LingbotError

LIBRARIES = ("diffusers", "ftfy", "tokenizers", "transformers")


def check_extra() -> None:
    """Raise LingbotError, which names the extra, for a library that is missing. Imports none."""
    for name in LIBRARIES:
        if find_spec(name) is None:
            raise LingbotError(explain(name))


def import_extra(name: str) -> ModuleType:
    """Import a library of the extra. Raises LingbotError, which names the extra, without it."""
    try:
        return import_module(name)
    except ImportError as exc:
        raise LingbotError(f"{explain(name)} ({exc})") from exc


def explain(name: str) -> str:
    return f"published weights need {name}: pip install 'lingbot-serve[checkpoints]'"
