import sys

import pytest

from lingbot import extra
from lingbot.errors import LingbotError
from lingbot.extra import check_extra, import_extra


def test_a_missing_library_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "ftfy", None)  # as without the package
    with pytest.raises(LingbotError, match=r"need ftfy: pip install 'lingbot-serve\[checkpoints\]"):
        import_extra("ftfy")


def test_the_extra_is_checked_without_importing_it(monkeypatch):
    check_extra()
    monkeypatch.setattr(extra, "find_spec", {"diffusers": "found", "ftfy": "found"}.get)
    with pytest.raises(LingbotError, match=r"need tokenizers: pip install .*\[checkpoints\]'$"):
        check_extra()


def test_an_installed_library_is_imported():
    assert import_extra("tokenizers").Tokenizer
