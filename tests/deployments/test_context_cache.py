import numpy as np

from deployments.context_cache import ContextCache
from deployments.encoded_prompt import EncodedPrompt


def encoded(rows):
    """A context of so many rows, 16 bytes each."""
    return EncodedPrompt(np.zeros((rows, 4), np.float32))


def test_the_least_recently_used_context_goes_first():
    cache = ContextCache(budget_bytes=48)
    for text in ("one", "two", "three"):
        cache.put(text, encoded(1))
    assert cache.get("one") is not None
    cache.put("four", encoded(1))
    assert [cache.get(text) is not None for text in ("one", "two", "three", "four")] == [
        True,
        False,
        True,
        True,
    ]


def test_the_budget_holds_after_every_entry():
    cache = ContextCache(budget_bytes=100)
    for number in range(50):
        cache.put(f"prompt {number % 7}", encoded(number % 8))
        kept = [cache.get(f"prompt {number}") for number in range(7)]
        assert cache.num_bytes == sum(one.context.nbytes for one in kept if one) <= 100


def test_a_context_over_the_budget_is_not_kept_and_drops_no_other():
    cache = ContextCache(budget_bytes=48)
    cache.put("small", encoded(2))
    cache.put("large", encoded(4))
    assert cache.get("large") is None and cache.get("small") is not None


def test_an_entry_replaces_that_of_the_same_prompt():
    cache = ContextCache(budget_bytes=48)
    cache.put("one", encoded(1))
    newer = encoded(3)
    cache.put("one", newer)
    assert cache.get("one") is newer and (len(cache), cache.num_bytes) == (1, 48)


def test_without_a_budget_nothing_is_kept():
    cache = ContextCache(budget_bytes=0)
    cache.put("one", encoded(1))
    assert cache.get("one") is None and len(cache) == 0
