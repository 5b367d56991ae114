import numpy as np
import pytest

from lingbot.errors import LingbotError
from lingbot.runtime import history as history_module
from lingbot.runtime.history import History
from lingbot.runtime.snapshot import EXTRA_CHUNKS, decode_snapshot, encode_snapshot
from tests.lingbot.runtime.worlds import (
    ACTIONS,
    draw_latents,
    is_same,
    make_history,
    make_origin,
)

CHUNK_BYTES = draw_latents(0).nbytes


def indices_of(snapshot):
    return [chunk.index for chunk in snapshot.chunks]


def test_a_snapshot_has_the_sink_and_the_last_chunks_that_the_window_needs():
    """A window of 9 latent frames has one chunk between the sink and the next one."""
    history = make_history(8)
    assert indices_of(history.snapshot()) == [0, *range(8 - 1 - EXTRA_CHUNKS, 8)]
    assert indices_of(history.snapshot(5)) == [0, *range(5 - 1 - EXTRA_CHUNKS, 5)]
    assert indices_of(history.snapshot(2)) == [0, 1]
    assert indices_of(history.snapshot(0)) == []


@pytest.mark.parametrize("window, sink, expected", [
    (9, 0, [5, 6, 7]), (9, 2, [0, 5, 6, 7]), (9, 4, [0, 1, 6, 7]), (6, 3, [0, 6, 7]),
    (12, 3, [0, 5, 6, 7]), (15, 3, [0, 4, 5, 6, 7]),
])  # fmt: skip
def test_the_chunks_of_other_windows(window, sink, expected):
    """A sink that ends inside a chunk keeps all of it; two chunks are decoded in any case."""
    history = make_history(8, origin=make_origin(window=window, sink=sink))
    assert indices_of(history.snapshot()) == expected


def test_a_snapshot_of_any_chunk_is_the_newest_one_of_a_shorter_world():
    prompts, recached = {2: "b", 5: "c", 6: "d"}, {5}
    history = make_history(9, prompts=prompts, recached=recached)
    for at in range(10):
        shorter = make_history(at, prompts=prompts, recached=recached)
        assert is_same(history.snapshot(at), shorter.snapshot()), at


def test_a_world_that_was_turned_back_goes_on_as_if_it_had_never_been_further():
    prompts, recached = {2: "b", 5: "c", 7: "d"}, {5, 7}
    for at in range(10):
        history = make_history(9, prompts=prompts, recached=recached)
        history.rewind(at)
        twin = make_history(at, prompts=prompts, recached=recached)
        for one in (history, twin):
            one.append(draw_latents(50), ["i", "i", "j"], "e", recache=True)
        assert is_same(history.snapshot(), twin.snapshot()), at
        assert history.earliest == twin.earliest == 0


def test_a_history_of_a_snapshot_goes_on_as_the_one_it_was_taken_from():
    prompts = {2: "b", 5: "c"}
    history = make_history(7, prompts=prompts, recached={5})
    other = History.of(history.snapshot(), budget_bytes=0)
    assert is_same(other.snapshot(), history.snapshot())
    for index in range(7, 12):
        for one in (history, other):
            prompt = "d" if index == 8 else None
            one.append(draw_latents(index), ACTIONS[1], prompt, recache=True)
        assert is_same(other.snapshot(), history.snapshot())


def test_latents_are_forgotten_within_the_budget_and_the_sinks_never():
    history = make_history(20, budget_bytes=8 * CHUNK_BYTES)
    assert history._num_bytes == 8 * CHUNK_BYTES
    first = 20 - 7  # beside the sink's
    assert history.earliest == first + history.origin.kept_chunks
    for at in range(history.earliest, 21):
        assert is_same(history.snapshot(at), make_history(at).snapshot())


@pytest.mark.parametrize("num_chunks", [0, 1, 2, 3, 9])
def test_without_a_budget_the_newest_snapshot_is_left(num_chunks):
    history = make_history(num_chunks, budget_bytes=0)
    assert is_same(history.snapshot(), make_history(num_chunks).snapshot())
    kept = make_origin().kept_chunks
    assert history.earliest == (0 if num_chunks <= 1 + kept else num_chunks)


@pytest.mark.parametrize("wrong", [-1, 12, 21])
def test_a_chunk_that_is_not_there_is_refused_with_the_range(wrong):
    history = make_history(20, budget_bytes=8 * CHUNK_BYTES)
    before = history.snapshot()
    for call in (history.snapshot, history.rewind):
        with pytest.raises(LingbotError, match=f"must be 15..20, not {wrong}") as refused:
            call(wrong)
        assert refused.value.field == "chunk_index"
    assert is_same(history.snapshot(), before)


def test_latents_are_copied():
    """Their owner may reuse the memory, and a view would keep all of it."""
    history, latents = make_history(1), draw_latents(5)
    history.append(latents, ACTIONS[0], None)
    latents[:] = 0
    assert np.array_equal(history.newest, draw_latents(5))


def test_a_prompt_that_recached_is_the_prompt_of_all_chunks_before_it():
    history = make_history(6, prompts={2: "b", 4: "c"}, recached={4})
    assert [chunk.prompt for chunk in history.snapshot().chunks] == ["c", "c", "c"]
    assert [chunk.prompt for chunk in history.snapshot(4).chunks] == ["a", "b", "b"]
    assert history.snapshot().journal.recached == (4,)


def test_a_world_that_is_too_old_for_a_journal_goes_on_without(monkeypatch):
    monkeypatch.setattr(history_module, "MAX_JOURNAL_FRAMES", 30)
    history = make_history(11)
    snapshot = history.snapshot()
    assert make_history(10).snapshot().journal is not None and snapshot.journal is None
    assert is_same(decode_snapshot(encode_snapshot(snapshot), max_bytes=2**20), snapshot)
    other = History.of(snapshot, budget_bytes=0)
    other.append(draw_latents(11), ACTIONS[3], None)
    history.append(draw_latents(11), ACTIONS[3], None)
    assert is_same(other.snapshot(), history.snapshot())
    history.rewind(8)
    assert history.snapshot().journal is None


def test_many_prompts_end_the_journal_too(monkeypatch):
    monkeypatch.setattr(history_module, "MAX_JOURNAL_CHARS", 10)
    prompts = {index: "bcd"[: index + 1] for index in range(4)}  # with "a" 10 characters
    assert make_history(4, prompts=prompts).snapshot().journal is not None
    assert make_history(5, prompts={**prompts, 4: "e"}).snapshot().journal is None


def test_prompts_of_recaches_that_no_snapshot_needs_are_forgotten():
    history = History(make_origin(), prompt="a", budget_bytes=0)
    for index in range(40):
        prompt = f"prompt {index}"
        history.append(draw_latents(index), ACTIONS[1], prompt, recache=True)
    assert len(history._recaches) <= 2 + history.next_chunk - history.earliest


def test_a_history_does_not_keep_the_file_of_its_snapshot():
    data = encode_snapshot(make_history(7).snapshot())
    read = decode_snapshot(data, max_bytes=2**20)
    kept = History.of(read, budget_bytes=2**20).snapshot()
    assert is_same(kept, read)
    for latents in (kept.origin.condition, *(chunk.latents for chunk in kept.chunks)):
        assert latents.base is None
