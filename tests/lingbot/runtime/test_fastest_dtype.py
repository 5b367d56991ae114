import logging
import re
import time

import pytest
import torch
from msgspec.structs import replace

from lingbot.config import PRESETS
from lingbot.parallel.process_group import spawn_ranks
from lingbot.runtime import fastest_dtype as module
from lingbot.runtime import presets
from lingbot.runtime.fastest_dtype import DTYPES, NUM_ROUNDS, fastest_dtype, measure, prepare_block
from lingbot.runtime.presets import load_engine
from tests.lingbot.toy import SHAPE, WORLD

POCKET = PRESETS["pocket"]


@pytest.mark.parametrize("slower", DTYPES)
def test_the_faster_type_is_chosen_and_logged_in_one_line(monkeypatch, caplog, slower):
    def prepare(model, world, dtype):
        run = prepare_block(model, world, dtype)
        return lambda: (run(), time.sleep(0.03 if dtype == slower else 0.0))

    monkeypatch.setattr(module, "prepare_block", prepare)
    with caplog.at_level(logging.INFO):
        chosen = fastest_dtype(SHAPE, WORLD)
    assert {chosen, slower} == set(DTYPES)
    (line,) = caplog.messages
    name = str(chosen).removeprefix("torch.")
    expected = (
        rf"{name} is faster: a block takes float32 [\d.]+ ms, bfloat16 [\d.]+ ms \(threads: 1\)"
    )
    assert re.fullmatch(expected, line)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("control", ["cam", "act"])
def test_a_block_runs_at_the_served_size_over_a_full_window(monkeypatch, dtype, control):
    sizes = []

    def attend(q, k, v, *, mask=None):
        sizes.append((q.shape[1], k.shape[1], k.dtype))
        return q

    monkeypatch.setattr("lingbot.dit.kv_cache.attention", attend)
    out = prepare_block(replace(SHAPE, control=control), WORLD, dtype)()
    tokens = WORLD.size.num_tokens
    assert sizes == [(WORLD.chunk * tokens, WORLD.window * tokens, dtype)]
    assert out.shape == (1, WORLD.chunk, tokens, SHAPE.dim) and out.isfinite().all()


def test_calls_take_turns_and_the_least_time_counts(monkeypatch):
    now_s, calls = 0, []
    took_s = {"a": iter([50, 12, 10, 11, 13]), "b": iter([20, 90, 21, 22, 23])}

    def run(name):
        nonlocal now_s
        now_s += next(took_s[name])
        calls.append(name)

    monkeypatch.setattr(module.time, "perf_counter", lambda: now_s)
    assert measure([lambda: run("a"), lambda: run("b")]) == [10, 20]
    assert calls == ["a", "b"] * NUM_ROUNDS


@pytest.mark.alone
def test_the_pocket_world_is_measured_within_a_second():
    config = load_engine("pocket", dtype=torch.float32).model.config
    began = time.thread_time()
    assert fastest_dtype(config, POCKET.world) in DTYPES
    assert time.thread_time() - began < 1


def load_on_a_rank_with_another_opinion(group):
    """Each rank of two would choose another type, rank 0 bfloat16. Returns whether all agree."""
    presets.fastest_dtype = lambda model, world: DTYPES[1 - group.rank]
    chosen = group.from_rank_0(lambda: group.rank)
    return chosen, load_engine("pocket", group=group).dtype


def check_types(group):
    gathered = [None] * group.num_ranks
    torch.distributed.all_gather_object(gathered, load_on_a_rank_with_another_opinion(group))
    return gathered


def test_all_ranks_take_the_choice_of_rank_0():
    assert spawn_ranks(2, check_types) == [(0, torch.bfloat16)] * 2
