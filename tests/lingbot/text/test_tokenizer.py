import json
import sys

import pytest
from tokenizers import Tokenizer

from lingbot.errors import LingbotError, WeightsError
from lingbot.text.tokenizer import PromptTokenizer, clean_prompt
from tests.lingbot.tiny_umt5 import write_tokenizer


@pytest.fixture
def path(tmp_path):
    return write_tokenizer(tmp_path / "tokenizer.json")


@pytest.mark.parametrize(
    "prompt, cleaned",
    [
        ("  a  forest \n\t at dusk ", "a forest at dusk"),
        ("a caf\u00c3\u00a9", "a café"),  # UTF-8 that was read as Latin-1
        ("fish &amp;amp; chips", "fish & chips"),  # escaped twice
        ("&lt;b&gt;snow&lt;/b&gt;", "<b>snow</b>"),
        ("a\u00a0lake", "a lake"),
        ("\u201csnow\u201d", '"snow"'),
        ("&nbsp;snow&nbsp;", "snow"),
        ("", ""),
    ],
)
def test_prompts_are_cleaned(prompt, cleaned):
    assert clean_prompt(prompt) == cleaned


def test_the_end_token_is_last(path):
    tokenizer = PromptTokenizer.load(path, text_len=512)
    ids = tokenizer.encode("a forest at dusk")
    raw = json.loads(path.read_bytes())["model"]["vocab"]
    assert [raw[number][0] for number in ids] == ["▁a", "▁forest", "▁at", "▁dusk", "</s>"]
    assert tokenizer.encode("") == [1]


def test_a_long_prompt_keeps_its_end_token(path):
    tokenizer = PromptTokenizer.load(path, text_len=6)
    assert (tokenizer.num_truncated("the road"), len(tokenizer.encode("the road"))) == (0, 3)
    fits, long = "the road at the lake", "the road at the lake at dusk"
    assert tokenizer.num_truncated(fits) == 0 and tokenizer.num_truncated(long) == 2
    assert tokenizer.encode(long) == tokenizer.encode(fits)
    assert len(tokenizer.encode(long)) == 6


@pytest.mark.parametrize("prompt", ["the road", "", "a " * 40, "snow &amp; café </s> lake"])
def test_ids_are_those_of_the_librarys_own_truncation(path, prompt):
    """The reference lets the library add the end token and truncate."""
    library = Tokenizer.from_file(str(path))
    library.enable_truncation(12)
    expected = library.encode(clean_prompt(prompt)).ids
    assert PromptTokenizer.load(path, text_len=12).encode(prompt) == expected


def test_a_file_with_padding_and_truncation_gives_the_same_ids(path):
    """Published files store the padding and the truncation of another task."""
    plain = PromptTokenizer.load(path, text_len=512).encode("a lake")
    library = Tokenizer.from_file(str(path))
    library.enable_padding(length=20)
    library.enable_truncation(2)
    library.save(str(path))
    assert PromptTokenizer.load(path, text_len=512).encode("a lake") == plain


@pytest.mark.parametrize(
    "content, reason",
    [
        (None, "No such file"),
        ("", "is empty"),
        ("version https://git-lfs.github.com/spec/v1\n", "git-lfs pointer"),
        ('{"model": {"type": "Unigram", "vo', "truncated"),
        ("{}", "missing required field `model`"),
        ('{"model": {"type": "Unigram"}}', "not a tokenizer"),
    ],
)
def test_a_damaged_file_gives_its_reason(path, content, reason):
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(WeightsError, match=reason) as raised:
        PromptTokenizer.load(path, text_len=512)
    assert str(raised.value).startswith(f"{path}: ") and "\n" not in str(raised.value)


def test_another_models_tokenizer_is_refused(tmp_path):
    path = write_tokenizer(tmp_path / "tokenizer.json", end="<|endoftext|>")
    with pytest.raises(WeightsError, match=r"no token '</s>', expected umT5's tokenizer"):
        PromptTokenizer.load(path, text_len=512)


def test_a_missing_library_names_the_extra(path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ftfy", None)
    with pytest.raises(LingbotError, match=r"lingbot-serve\[checkpoints\]"):
        PromptTokenizer.load(path, text_len=512)
