import base64
import hashlib
import json
import logging
import time

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from transport.access_config import AccessConfig, JwtConfig, TokenLimits
from transport.tokens import TokenFileError, Tokens
from transport.wire.errors import Refused

ALICE = "alice-0123456789abcdef"
SECRET = "0123456789abcdef0123456789abcdef"  # of HS256
LIMITS = TokenLimits(max_sessions=7)


@pytest.fixture
def tokens_of(tmp_path):
    """Returns the tokens of a file with these entries, or this text."""
    file = tmp_path / "tokens.yaml"

    def write(entries):
        file.write_text(entries if isinstance(entries, str) else json.dumps(entries))
        return Tokens(AccessConfig(tokens_file=str(file), limits=LIMITS))

    return write


@pytest.fixture
def signed(tmp_path):
    """Returns the tokens of a key, in a file with this content."""

    def write(key, algorithm="HS256", **fields):
        file = tmp_path / "key"
        file.write_bytes(key if isinstance(key, bytes) else key.encode())
        config = JwtConfig(key_file=str(file), algorithm=algorithm, **fields)
        return Tokens(AccessConfig(jwt=config, limits=LIMITS))

    return write


def pem(private):
    return private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def sign(key=SECRET, algorithm="HS256", *, without=(), **claims):
    payload = {"sub": "bob", "exp": time.time() + 60} | claims
    payload = {name: value for name, value in payload.items() if name not in without}
    return jwt.encode(payload, key, algorithm)


def refusal(tokens, text):
    with pytest.raises(Refused) as refused:
        tokens.verify(text)
    assert (refused.value.code, refused.value.close_code) == ("unauthorized", 1008)
    return str(refused.value)


def test_a_static_token_has_its_name_and_limits(tokens_of):
    digest = hashlib.sha256(b"carol-0123456789abcdef").hexdigest()
    tokens = tokens_of(
        [
            {"name": "alice", "token": ALICE, "limits": {"max_clips": 3}},
            {"name": "carol", "sha256": digest},
        ]
    )
    alice = tokens.verify(ALICE)
    assert alice.name == "token alice"
    assert alice.limits == TokenLimits(max_sessions=7, max_clips=3)
    assert tokens.verify("carol-0123456789abcdef").limits == LIMITS
    for text in (ALICE + "x", ALICE[:-1], ALICE.upper(), "", "alice", digest):
        assert refusal(tokens, text) == "the token is unknown"


def test_no_secret_stays_in_memory_as_it_was_written(tokens_of):
    tokens = tokens_of([{"name": "alice", "token": ALICE}])
    kept = repr((vars(tokens), tokens.verify(ALICE)))
    assert "alice" in kept and ALICE not in kept


@pytest.mark.parametrize(
    "entries, reason",
    [
        ("a: [", "not YAML"),
        ("SECRET-0123456789: [", "not YAML"),
        ("alice: SECRET-0123456789", "Expected `array`"),
        ([{"name": "a"}], r"\[0\]: expected either `token` or `sha256`"),
        ([{"name": "a", "token": "SECRET"}], r"matching regex .*\$\[0\]\.token"),
        ([{"name": "a", "token": "SECRET 0123456789"}], r"\$\[0\]\.token"),
        ([{"name": "a", "tokn": "SECRET-0123456789"}], "unknown field `tokn`"),
        ([{"name": "a b", "token": "SECRET-0123456789"}], r"\$\[0\]\.name"),
        ([{"name": "a", "token": ALICE}, {"name": "b", "token": ALICE}], r"\[1\]: 'b' repeats"),
        (
            [{"name": "a", "token": ALICE, "limits": {"max_session": 1}}],
            r"\[0\]\.limits: .*unknown field `max_session`",
        ),
        (
            [{"name": "a", "token": ALICE, "limits": {"max_sessions": -1}}],
            r"\[0\]\.limits: .*>= 0.*max_sessions",
        ),
    ],
)
def test_a_wrong_file_is_named_and_not_quoted(entries, reason, tokens_of):
    with pytest.raises(TokenFileError, match=f"tokens.yaml: .*{reason}") as raised:
        tokens_of(entries)
    assert "SECRET" not in str(raised.value) and "\n" not in str(raised.value)


def test_a_missing_file_is_named():
    with pytest.raises(TokenFileError, match="^/nowhere/tokens: No such file"):
        Tokens(AccessConfig(tokens_file="/nowhere/tokens"))


def test_a_signed_token_has_the_limits_of_its_claim(signed):
    tokens = signed(SECRET + "\n")
    bob = tokens.verify(sign(limits={"max_sessions": 2}))
    assert (bob.name, bob.limits) == ("jwt bob", TokenLimits(max_sessions=2))
    assert tokens.verify(sign()).limits == LIMITS


def test_an_ed25519_key_checks_tokens_too(signed):
    private = Ed25519PrivateKey.generate()
    tokens = signed(pem(private), "EdDSA")
    assert tokens.verify(sign(private, "EdDSA")).name == "jwt bob"
    refusal(tokens, sign(Ed25519PrivateKey.generate(), "EdDSA"))
    # The public key is no secret, so a token that it "signs" with HS256 proves nothing.
    header = base64.urlsafe_b64encode(b'{"alg":"HS256","typ":"JWT"}').rstrip(b"=").decode()
    body = sign().split(".")[1]
    forged = jwt.algorithms.HMACAlgorithm(jwt.algorithms.HMACAlgorithm.SHA256)
    signature = forged.sign(f"{header}.{body}".encode(), pem(private))
    text = f"{header}.{body}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"
    assert "InvalidAlgorithm" in refusal(tokens, text)


def test_what_is_wrong_with_a_signed_token_is_named(signed):
    tokens = signed(SECRET)
    assert refusal(tokens, sign(exp=time.time() - 60)) == "the token has expired"
    for text, reason in (
        (sign("f" * 32), "InvalidSignature"),
        (sign(algorithm="none", key=None), "InvalidAlgorithm"),
        (sign(algorithm="HS512", key=SECRET * 2), "InvalidAlgorithm"),
        (sign(without=["exp"]), "MissingRequiredClaim"),
        (sign(without=["sub"]), "MissingRequiredClaim"),
        (sign(nbf=time.time() + 60), "ImmatureSignature"),
        (sign(aud="elsewhere"), "InvalidAudience"),
        (sign(sub="b" * 65), "ValidationError"),
        (sign(sub="b\nb"), "ValidationError"),
        (sign(limits={"max_sessions": "many"}), "ValidationError"),
        (sign(limits={"max_session": 1}), "ValidationError"),
        (sign(exp=float("inf")), "Error"),
        (sign()[:-4] + "AAAA", "InvalidSignature"),
        ("a.b.c-0123456789abcdef", "DecodeError"),
    ):
        assert reason in refusal(tokens, text), text


def test_an_audience_that_is_configured_is_required(signed):
    tokens = signed(SECRET, audience="lingbot")
    assert tokens.verify(sign(aud="lingbot")).name == "jwt bob"
    assert "InvalidAudience" in refusal(tokens, sign(aud="elsewhere"))
    assert "MissingRequiredClaim" in refusal(tokens, sign())


def test_a_hostile_header_of_a_signed_token_is_refused(signed):
    """JSON so deep that its reader raises RecursionError."""
    header = base64.urlsafe_b64encode(b"[" * 2000).rstrip(b"=").decode()
    assert "the token is not valid" in refusal(signed(SECRET), f"{header}.e30.AAAA")


@given(st.text(max_size=200) | st.from_regex(r"[\w-]*\.[\w-]*\.[\w-]*", fullmatch=True))
def test_any_text_is_accepted_or_refused(text):
    assert refusal(ANY, text).startswith("the token is ")


@pytest.fixture(autouse=True, scope="module")
def _any(tmp_path_factory):
    global ANY
    folder = tmp_path_factory.mktemp("tokens")
    (folder / "key").write_text(SECRET)
    (folder / "tokens").write_text(json.dumps([{"name": "alice", "token": ALICE}]))
    key = JwtConfig(key_file=str(folder / "key"), algorithm="HS256")
    ANY = Tokens(AccessConfig(tokens_file=str(folder / "tokens"), jwt=key))


@pytest.mark.parametrize(
    "key, algorithm, reason",
    [
        (SECRET[1:], "HS256", "expected a secret of 32 bytes or more for HS256"),
        (pem(Ed25519PrivateKey.generate()), "HS256", "expected a secret"),
        (SECRET, "EdDSA", "not a public key in PEM"),
        (pem(generate_private_key(65537, 2048)), "EdDSA", "expected an Ed25519 public key"),
    ],
    ids=["short", "public for HS256", "secret for EdDSA", "RSA"],
)
def test_a_key_of_another_kind_is_refused(key, algorithm, reason, signed):
    with pytest.raises(TokenFileError, match=f"key: {reason}"):
        signed(key, algorithm)


def test_a_token_is_withdrawn_without_a_restart(tokens_of, caplog):
    tokens = tokens_of([{"name": "alice", "token": ALICE}])
    alice = tokens.verify(ALICE)
    assert not tokens.reload()
    tokens_of([{"name": "dave", "token": "dave-0123456789abcdef"}])
    with caplog.at_level(logging.INFO):
        assert tokens.reload()
    assert "0123456789" not in caplog.text
    assert tokens.is_withdrawn(alice)
    refusal(tokens, ALICE)
    assert not tokens.is_withdrawn(tokens.verify("dave-0123456789abcdef"))


def test_a_file_that_breaks_later_is_logged_and_the_tokens_stay(tokens_of, tmp_path, caplog):
    tokens = tokens_of([{"name": "alice", "token": ALICE}])
    file = tmp_path / "tokens.yaml"
    for damage in (lambda: file.write_text(f"- token: {ALICE}"), file.unlink):
        damage()
        assert not tokens.reload()
        assert "the tokens stay as they were" in caplog.text and ALICE not in caplog.text
        assert not tokens.is_withdrawn(tokens.verify(ALICE))
        caplog.clear()


def test_a_new_key_withdraws_the_tokens_of_the_old_one(signed):
    tokens = signed(SECRET)
    bob = tokens.verify(sign())
    assert not tokens.is_withdrawn(bob)
    signed("f" * 32)
    assert tokens.reload()
    assert tokens.is_withdrawn(bob)
    refusal(tokens, sign())
    assert not tokens.is_withdrawn(tokens.verify(sign("f" * 32)))
