"""Prompts to token ids, by a `tokenizer.json` and the cleaning that Wan was trained with."""

import html
import re
from pathlib import Path
from typing import Any

from msgspec import Raw, Struct

from lingbot.errors import WeightsError
from lingbot.extra import import_extra
from lingbot.files import read_json

END_TOKEN = "</s>"  # T5's and umT5's; their files name it


class TokenizerFile(Struct):
    """The keys of a tokenizer.json without which it is another file."""

    model: Raw


class PromptTokenizer:
    """Cleans prompts and splits them into at most `text_len` tokens, the end token included."""

    def __init__(self, tokenizer: Any, *, text_len: int, source: Path) -> None:
        """`tokenizer` is a `tokenizers.Tokenizer`. Raises WeightsError unless it has END_TOKEN."""
        end: int | None = tokenizer.token_to_id(END_TOKEN)
        if end is None:
            raise WeightsError(f"{source}: no token '{END_TOKEN}', expected umT5's tokenizer")
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self.text_len = text_len
        self.vocab_size: int = tokenizer.get_vocab_size()
        self._tokenizer = tokenizer
        self._end = end

    @staticmethod
    def load(path: Path, *, text_len: int) -> "PromptTokenizer":
        """Raises WeightsError with the path for a file that is missing or no tokenizer.

        Raises LingbotError without the library `tokenizers` or `ftfy`.
        """
        tokenizers = import_extra("tokenizers")
        import_extra("ftfy")  # cleaning needs it: fail now, not at the first prompt
        read_json(path, TokenizerFile)  # has reasons; the library's are not for people
        try:
            tokenizer = tokenizers.Tokenizer.from_file(str(path))
        except Exception as exc:  # the library raises Exception itself
            raise WeightsError(f"{path}: not a tokenizer: {exc}") from exc
        return PromptTokenizer(tokenizer, text_len=text_len, source=path)

    def encode(self, prompt: str) -> list[int]:
        """The ids of the first tokens, and of the end token behind them."""
        return [*self._ids(prompt)[: self.text_len - 1], self._end]

    def num_truncated(self, prompt: str) -> int:
        """The tokens that `encode` leaves out."""
        return max(0, len(self._ids(prompt)) - (self.text_len - 1))

    def _ids(self, prompt: str) -> list[int]:
        text = clean_prompt(prompt)
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids


def clean_prompt(prompt: str) -> str:
    """The prompt with its encoding and HTML entities repaired, and single spaces."""
    text = import_extra("ftfy").fix_text(prompt)
    return re.sub(r"\s+", " ", html.unescape(html.unescape(text))).strip()
