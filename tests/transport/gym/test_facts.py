import pytest

from transport.access import Access
from transport.access_config import AccessConfig
from transport.gym.facts import Facts, choose_size, fetch_facts
from transport.tokens import Tokens
from transport.wire.errors import TransportError

FACTS = Facts(sizes=((32, 16), (64, 32)), fps=16, chunk_latent_frames=3, chunk_frames=12)
ANY = Facts(sizes=(), fps=16, chunk_latent_frames=3, chunk_frames=12)


def test_the_facts_are_the_servers(url, world):
    facts = fetch_facts(url)
    assert (facts.fps, facts.chunk_latent_frames, facts.chunk_frames) == (60, 3, 12)
    assert facts.sizes == world.info.sizes


@pytest.mark.parametrize("url", ["http://127.0.0.1/", "127.0.0.1:8000", "ws://"])
def test_an_address_of_another_kind_is_named(url):
    with pytest.raises(TransportError, match="expected ws://HOST:PORT/PATH"):
        fetch_facts(url)


def test_a_refusal_is_told_and_leaves_no_open_socket(listen, world, tmp_path):
    file = tmp_path / "tokens.yaml"
    file.write_text("[{name: alice, token: alice-0123456789abcdef}]")
    access = Access(tokens=Tokens(AccessConfig(tokens_file=str(file))))
    refused = pytest.raises(TransportError, match="does not describe a world: HTTP Error 401")
    with listen(world, access=access) as port, refused as told:
        fetch_facts(f"ws://127.0.0.1:{port}/")
    assert told.value.__cause__.closed


def test_a_server_that_does_not_answer_is_named():
    with pytest.raises(TransportError, match="http://127.0.0.1:9/v1/world does not describe"):
        fetch_facts("ws://127.0.0.1:9/x")


def test_the_size_is_one_that_is_served():
    assert choose_size(None, FACTS) == (32, 16)
    assert choose_size((64, 32), FACTS) == (64, 32)
    assert choose_size((48, 48), ANY) == (48, 48)
    with pytest.raises(ValueError, match=r"\(48, 48\) is not served, expected one of \(32, 16\)"):
        choose_size((48, 48), FACTS)
    with pytest.raises(ValueError, match="`size` is missing"):
        choose_size(None, ANY)
