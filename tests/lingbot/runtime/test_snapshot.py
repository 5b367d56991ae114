import copy
import json
import random
import tracemalloc

import numpy as np
import pytest
from msgspec.structs import replace

from lingbot.config import PRESETS, Size
from lingbot.errors import LingbotError
from lingbot.runtime.snapshot import (
    MAX_JOURNAL_BYTES,
    MAX_JOURNAL_FRAMES,
    KeptChunk,
    Snapshot,
    as_float32,
    decode_snapshot,
    encode_snapshot,
    needed_prompts,
)
from lingbot.runtime.snapshot_check import check_snapshot
from lingbot.runtime.tensor_file import read_tensors, write_tensors
from tests.lingbot.runtime.worlds import draw_latents, is_same, make_history, make_origin
from tests.lingbot.toy import WORLD

MAX_BYTES = 2**20
PROMPTS = {2: "b", 5: "c"}


def make_snapshot(num_chunks=7, **options):
    """Of seven chunks: the first one and the last three."""
    options = {"origin": make_origin(window=12), "prompts": PROMPTS, "recached": {5}, **options}
    return make_history(num_chunks, **options).snapshot()


def decode(data, *, max_bytes=MAX_BYTES):
    return decode_snapshot(data, max_bytes=max_bytes)


@pytest.mark.parametrize("num_chunks", [0, 1, 2, 7])
@pytest.mark.parametrize("dtype", [np.float32, np.uint16])
def test_a_snapshot_is_read_as_it_was_written(num_chunks, dtype):
    snapshot = make_snapshot(num_chunks, dtype=dtype)
    data = encode_snapshot(snapshot)
    assert is_same(decode(data), snapshot)
    assert encode_snapshot(decode(data)) == data
    assert len(data) < snapshot.num_bytes + 4096


def test_a_held_key_takes_few_bytes_in_the_file():
    """An hour of walking ahead."""
    origin, actions = make_origin(), tuple([("w",) * 3] * 4800)
    snapshot = make_history(0, origin=origin).snapshot()
    journal = replace(snapshot.journal, actions=actions)
    chunks = [{"index": i, "latents": draw_latents(i), "actions": ("w",) * 3, "pitch": 0,
               "prompt": "a"} for i in (0, 4797, 4798, 4799)]  # fmt: skip
    kept = tuple(type(make_snapshot().chunks[0])(**chunk) for chunk in chunks)
    long = replace(snapshot, next_chunk=4800, journal=journal, chunks=kept)
    assert is_same(decode(encode_snapshot(long)), long)
    assert len(encode_snapshot(long)) < long.num_bytes + 2048


def test_the_prompts_of_a_restoration_are_named_once():
    history = make_history(7, prompts={2: "b", 6: "c"})
    snapshot = history.snapshot()
    assert needed_prompts(snapshot) == ("a", "b", "c")
    assert needed_prompts(make_history(9, prompts={1: "b"}).snapshot()) == ("a", "b")
    many = make_history(20, prompts={2: "x", 4: "y"}).snapshot()
    assert needed_prompts(many) == ("a", "y")
    assert needed_prompts(many, exact=True) == ("a", "x", "y")


# ---- wrong files


def edited(change, *, snapshot=None):
    """A file whose JSON and tensors have been changed; they are read-only, so replace them."""
    tensors, text = read_tensors(encode_snapshot(snapshot or make_snapshot()))
    fields = json.loads(text)
    change(fields, tensors)
    return write_tensors(tensors, json.dumps(fields))


def put(*path):
    """`put("chunks", 0, "pitch", 3)` sets a field of the JSON."""
    *keys, last, value = path

    def change(fields, tensors):
        for key in keys:
            fields = fields[key]
        fields[last] = value

    return change


def put_tensor(name, value):
    return lambda fields, tensors: tensors.update({name: value})


def drop_tensor(name):
    return lambda fields, tensors: tensors.pop(name)


def with_number(value, at=5):
    latents = draw_latents(6).copy()
    latents.flat[at] = value
    return latents


def both(*changes):
    def change(fields, tensors):
        for one in changes:
            one(fields, tensors)

    return change


WRONG = [
    ("snapshot.version", put("version", 2)),
    ("snapshot.version", put("version", "1")),
    ("snapshot.preset", put("preset", "x" * 129)),
    ("snapshot.fingerprint", put("fingerprint", None)),
    ("snapshot.width", put("width", 47)),
    ("snapshot.height", put("height", 2**20)),
    ("snapshot.condition", put("width", 64)),
    ("snapshot.seed", put("seed", 2**63)),
    ("snapshot.num_steps", put("num_steps", 0)),
    ("snapshot.window", put("window", 5)),
    ("snapshot.window", put("window", 1025)),
    ("snapshot.sink", put("sink", -1)),
    ("snapshot.chunk", put("chunk", 0)),
    ("snapshot.condition", put("chunk", 4)),
    ("snapshot.condition", drop_tensor("condition")),
    ("snapshot.condition", put_tensor("condition", draw_latents(1, num_frames=4))),
    ("snapshot.condition", put_tensor("condition", draw_latents(1)[:, :0])),
    ("snapshot.next_chunk", put("next_chunk", -1)),
    ("snapshot.next_chunk", put("next_chunk", 2**32)),
    ("snapshot.pitch", put("pitch", 86)),
    ("snapshot.pitch", put("pitch", 12)),
    ("snapshot.prompt", put("prompt", 9)),
    ("snapshot.texts[0]", put("texts", 0, "x" * 8001)),
    ("snapshot.texts[0]", put("texts", 0, 5)),
    ("snapshot.chunks", put("chunks", [])),
    ("snapshot.chunks", both(drop_tensor("5"), lambda f, t: f["chunks"].pop(2))),
    ("snapshot.chunks", both(drop_tensor("0"), lambda f, t: f["chunks"].pop(0))),
    ("snapshot.chunks", lambda f, t: f["chunks"].reverse()),
    ("snapshot.chunks", put_tensor("8", draw_latents(1))),
    ("snapshot.chunks[1].latents", drop_tensor("4")),
    ("snapshot.chunks[1].latents", lambda f, t: f["chunks"].insert(0, dict(f["chunks"][0]))),
    ("snapshot.chunks[3].latents", put_tensor("6", with_number(np.nan))),
    ("snapshot.chunks[3].latents", put_tensor("6", with_number(np.inf))),
    ("snapshot.chunks[3].latents", put_tensor("6", with_number(-100.5))),
    ("snapshot.chunks[3].latents", put_tensor("6", draw_latents(1)[:8])),
    ("snapshot.chunks[3].latents", put_tensor("6", draw_latents(1)[0])),
    ("snapshot.chunks[3]", put_tensor("6", draw_latents(1)[:, :2])),
    ("snapshot.chunks[0].pitch", put("chunks", 0, "pitch", 4)),
    ("snapshot.chunks[2].actions", put("chunks", 2, "actions", ["w", "w", "x"])),
    ("snapshot.chunks[2].actions", put("chunks", 2, "actions", ["w", "w", "w"])),
    ("snapshot.chunks[2]", put("chunks", 2, "actions", ["w", "w"])),
    ("snapshot.chunks[2].prompt", put("chunks", 2, "prompt", 3)),
    ("snapshot.chunks[2]", put("chunks", 2, "file", "/etc/passwd")),
    ("snapshot", put("path", "/etc/passwd")),
    ("snapshot.journal.actions", put("journal", "actions", [["w", 20]])),
    ("snapshot.journal.actions", put("journal", "actions", [["ww", 21]])),
    ("snapshot.journal.actions[0][1]", put("journal", "actions", 0, 1, 0)),
    ("snapshot.journal.actions[0][1]", put("journal", "actions", 0, 1, 2**40)),
    ("snapshot.journal.actions", put("journal", "actions", [["", 2**18]] * 1000)),
    ("snapshot.journal.prompts", put("journal", "prompts", [])),
    ("snapshot.journal.prompts", put("journal", "prompts", [[1, 0]])),
    ("snapshot.journal.prompts", put("journal", "prompts", [[0, 0], [7, 0]])),
    ("snapshot.journal.prompts", put("journal", "prompts", [[0, 0], [3, 0], [2, 0]])),
    ("snapshot.journal.prompts", put("journal", "prompts", [[0, 5]])),
    ("snapshot.journal.recached", put("journal", "recached", [4])),
    ("snapshot.journal.recached", put("journal", "recached", [5, 2])),
]


@pytest.mark.parametrize("field, change", WRONG, ids=[f"{i}-{name}" for i, (name, _) in
                                                     enumerate(WRONG)])  # fmt: skip
def test_a_wrong_field_is_named(field, change):
    with pytest.raises(LingbotError, match="snapshot") as refused:
        decode(edited(change))
    assert refused.value.field == field
    assert field in str(refused.value) and len(str(refused.value)) < 400


def test_bytes_that_are_no_file_and_too_many_bytes_are_refused():
    data = encode_snapshot(make_snapshot())
    for wrong, options in ((b"", {}), (data[:-1], {}), (data + b"x", {}),
                           (data, {"max_bytes": len(data) - 1})):  # fmt: skip
        with pytest.raises(LingbotError) as refused:
            decode(wrong, **options)
        assert refused.value.field == "snapshot"


def test_a_bfloat16_that_is_not_finite_is_refused():
    latents = draw_latents(6, dtype=np.uint16).copy()
    assert np.isfinite(as_float32(latents)).all()
    for wrong in (0x7F80, 0xFFC0, 0x42CA):  # inf, nan, 101
        latents.flat[3] = wrong
        with pytest.raises(LingbotError) as refused:
            decode(edited(put_tensor("6", latents)))
        assert refused.value.field == "snapshot.chunks[3].latents"


def test_without_a_journal_neighbouring_chunks_must_agree_on_the_pitch():
    without = make_snapshot()
    without = replace(without, journal=None)
    assert is_same(decode(encode_snapshot(without)), without)
    for field, change in (("snapshot.chunks[2].pitch", put("chunks", 2, "pitch", 40)),
                          ("snapshot.pitch", put("pitch", 40))):  # fmt: skip
        with pytest.raises(LingbotError) as refused:
            decode(edited(change, snapshot=without))
        assert refused.value.field == field


def test_more_kept_chunks_than_here_are_accepted_within_a_bound():
    """Another server may keep more."""
    history = make_history(30)
    snapshot = history.snapshot()
    for count, fits in ((1, True), (17, True), (18, False)):
        chunks = (history._sink[0], *list(history._recent)[-count:])
        data = encode_snapshot(replace(snapshot, chunks=chunks))
        if fits:
            assert len(decode(data).chunks) == 1 + count
            continue
        with pytest.raises(LingbotError) as refused:
            decode(data)
        assert refused.value.field == "snapshot.chunks"


# ---- what a served world takes


def test_a_world_of_another_preset_or_shape_is_refused_with_the_field():
    snapshot = make_snapshot(origin=make_origin())
    check_snapshot(snapshot, WORLD)
    check_snapshot(snapshot, WORLD, fingerprint="f" * 32)
    cases = [
        ("preset", {"name": "pocket"}, {}), ("size", {"sizes": (Size(64, 32),)}, {}),
        ("chunk", {"chunk": 2}, {}), ("window", {"window": 6}, {}),
        ("fingerprint", {}, {"fingerprint": "e" * 32}),
    ]  # fmt: skip
    for field, changes, options in cases:
        with pytest.raises(LingbotError, match=f"snapshot.{field} must be") as refused:
            check_snapshot(snapshot, replace(WORLD, **changes), **options)
        assert refused.value.field == f"snapshot.{field}"


def test_more_steps_than_a_session_may_have_are_refused():
    snapshot = make_snapshot(origin=make_origin(num_steps=9))
    with pytest.raises(LingbotError, match="at most 8, not 9") as refused:
        check_snapshot(snapshot, WORLD)
    assert refused.value.field == "snapshot.num_steps"


def test_a_condition_longer_than_a_presets_is_refused():
    """It would take memory that no plan counts."""
    world = PRESETS["pocket"].world
    zeros = np.zeros((16, 9, 16, 26), np.float32)
    for frames, fits in ((6, True), (9, False)):
        origin = make_origin(preset="pocket", width=208, height=128, condition=zeros[:, :frames])
        snapshot = make_history(0, origin=origin).snapshot()
        if fits:
            check_snapshot(snapshot, world)
            continue
        with pytest.raises(LingbotError, match="at most 6 latent frames, not 9"):
            check_snapshot(snapshot, world)


# ---- fuzzing


def mutate(data, draw):
    """One to four changes of a file: bytes, cuts, repeats, or values of the JSON."""
    mutated = bytearray(data)
    for _ in range(draw.randint(1, 4)):
        at = draw.randrange(len(mutated)) if draw.random() < 0.5 else draw.randrange(2000)
        match draw.randrange(6):
            case 0:
                mutated[at % len(mutated)] = draw.randrange(256)
            case 1:
                del mutated[at : at + draw.randint(1, 50)]
            case 2:
                mutated[at:at] = mutated[at : at + draw.randint(1, 50)]
            case 3:
                mutated[at : at + 1] = draw.choice([b"9", b"-", b'"', b"[", b"}", b"null", b"1e9"])
            case 4:
                del mutated[draw.randint(1, len(mutated)) :]
            case 5:
                mutated[at : at + 4] = b"\xff\xff\xff\x7f"
        if not mutated:
            return b""
    return bytes(mutated)


VALUES = [None, -1, 0, 1, 3, 2**31, 2**64, 0.5, "", "w", "x" * 9000, [], [[]], {}, True, "\ud800"]


def mutate_json(data, draw):
    """Another value somewhere in the JSON, and the header in order."""
    tensors, text = read_tensors(data)
    fields = json.loads(text)
    for _ in range(draw.randint(1, 3)):
        place = fields
        while True:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            if not keys:
                break
            key = draw.choice(keys)
            if not isinstance(place[key], dict | list) or draw.random() < 0.3:
                place[key] = copy.deepcopy(draw.choice(VALUES))
                break
            place = place[key]
    if draw.random() < 0.2:
        tensors[draw.choice(list(tensors))] = draw_latents(1, num_frames=draw.randint(0, 9))
    return write_tensors(tensors, json.dumps(fields))


def fuzz(num_mutations, *, seed):
    """Decode mutations. Returns how many were read, and how many refused."""
    draw, counts = random.Random(seed), [0, 0]
    originals = [encode_snapshot(make_snapshot(n, dtype=dtype)) for n in (0, 2, 7)
                 for dtype in (np.float32, np.uint16)]  # fmt: skip
    for _ in range(num_mutations):
        change = draw.choice([mutate, mutate_json])
        data = change(draw.choice(originals), draw)
        try:
            snapshot = decode(data)
        except LingbotError as exc:
            assert exc.field is not None and exc.field.startswith("snapshot")
            assert len(str(exc)) < 500
            counts[1] += 1
        else:
            assert isinstance(snapshot, Snapshot)
            assert is_same(decode(encode_snapshot(snapshot)), snapshot)
            counts[0] += 1
    return counts


@pytest.mark.parametrize("num_mutations", [1000, pytest.param(10_000, marks=pytest.mark.slow)])
def test_a_mutated_file_is_refused_or_is_a_snapshot(num_mutations):
    num_read, num_refused = fuzz(num_mutations, seed=num_mutations)
    assert num_read > num_mutations / 50 and num_refused > num_mutations / 2


def test_a_small_file_cannot_take_much_memory():
    """The longest journal of a file of a few kilobytes, and one that is refused."""
    origin = make_origin()
    count = MAX_JOURNAL_FRAMES // 3

    def stretch(length):
        def change(fields, tensors):
            fields["next_chunk"] = length
            fields["journal"]["actions"] = [["", 3 * length]]
            fields["chunks"] = [{**fields["chunks"][0], "index": i, "pitch": 0,
                                 "actions": [""] * 3} for i in (0, length - 1)]  # fmt: skip
            tensors[str(length - 1)] = tensors.pop("1")
            fields["pitch"] = 0

        return edited(change, snapshot=make_history(2, origin=origin).snapshot())

    tracemalloc.start()
    assert len(decode(stretch(count)).journal.actions) == count
    with pytest.raises(LingbotError) as refused:
        decode(stretch(count + 1))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert refused.value.field.startswith("snapshot.journal.actions")
    assert peak < 32 * 2**20


def busy_walk(num_runs):
    """A world in which the key changed at every latent frame."""
    snapshot = make_snapshot(0)
    frames = ["", "w"] * (num_runs // 2)
    actions = tuple(tuple(frames[i : i + 3]) for i in range(0, num_runs, 3))
    chunk = KeptChunk(index=0, latents=draw_latents(0), actions=(), pitch=0, prompt="a")
    last = len(actions)
    kept = [
        replace(chunk, index=index, actions=actions[index])
        for index in (0, *range(last - snapshot.origin.window_chunks, last))
    ]
    journal = replace(snapshot.journal, actions=actions)
    return replace(snapshot, next_chunk=last, chunks=tuple(kept), journal=journal)


def test_a_journal_that_takes_long_to_parse_is_not_saved():
    assert is_same(decode(encode_snapshot(busy_walk(60_000))), busy_walk(60_000))
    long = busy_walk(MAX_JOURNAL_FRAMES // 6 * 6)
    data = encode_snapshot(long)
    assert len(data) < long.num_bytes + 4096
    assert is_same(decode(data), replace(long, journal=None))


def test_a_journal_that_takes_long_to_parse_is_refused_unparsed():
    with pytest.raises(LingbotError, match=f"at most {MAX_JOURNAL_BYTES} bytes") as refused:
        decode(edited(put("journal", "actions", [["?", -1]] * 60_000)), max_bytes=2**21)
    assert refused.value.field == "snapshot.journal"
