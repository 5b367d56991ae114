"""Bearer tokens: static ones from a file, and signed ones (JWT)."""

import hashlib
import logging
import os
import re
from collections.abc import Mapping
from typing import Annotated, Any

import jwt
import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from msgspec import Meta, Struct
from msgspec.structs import asdict

from transport.access_config import AccessConfig, JwtConfig, TokenLimits
from transport.wire.errors import Refused

# Characters that headers, URLs and WebSocket subprotocols carry as they are.
TOKEN = re.compile(r"[A-Za-z0-9._~-]{16,4096}")
MIN_SECRET_BYTES = 32  # RFC 7518 requires so many for HS256
LEEWAY_S = 5  # between the clocks of the issuer and of this machine

Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9@._:+-]{1,64}\Z")]
Stamp = tuple[int, int, int]

logger = logging.getLogger(__name__)


class TokenFileError(Exception):
    """A file of secrets cannot be used. The text names the file, and quotes nothing of it."""


class Token(Struct, frozen=True):
    """A token that was accepted. Nothing in it is secret."""

    name: str  # for logs and counts: "token NAME", or "jwt SUB"
    limits: TokenLimits
    origin: bytes  # the digest of the static token, or of the key that signed it


class TokenEntry(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One entry of `tokens_file`, with the token or its SHA-256."""

    name: Name
    token: Annotated[str, Meta(pattern=f"^{TOKEN.pattern}\\Z")] | None = None
    sha256: Annotated[str, Meta(pattern=r"^[0-9a-fA-F]{64}\Z")] | None = None
    limits: dict[str, Any] = {}


class Claims(Struct, frozen=True):
    """The claims of a JWT that are used, beside those that its library checks."""

    sub: Name
    limits: dict[str, Any] = {}


class Tokens:
    """Checks tokens against the files of the config."""

    def __init__(self, config: AccessConfig) -> None:
        """Raises TokenFileError."""
        self._config = config
        self._stamps = self._read_stamps()
        self._static, self._key = self._read()

    def verify(self, text: str) -> Token:
        """The token that this text is. Raises Refused with code `unauthorized`."""
        if TOKEN.fullmatch(text):
            # A digest cannot be steered towards one of the table, so its look-up leaks nothing.
            if (token := self._static.get(hashlib.sha256(text.encode()).digest())) is not None:
                return token
            if self._config.jwt is not None:
                return self._verify_jwt(text, self._config.jwt)
        raise unauthorized("the token is unknown")

    def is_withdrawn(self, token: Token) -> bool:
        """True if the token, or the key that signed it, is not in the files any more.

        A token that has expired is not withdrawn.
        """
        return token.origin not in self._static and token.origin != digest_of(self._key)

    def reload(self) -> bool:
        """Read the files if they have changed. True if they were read.

        Files that cannot be used are logged, and the former content stays valid.
        """
        try:
            stamps = self._read_stamps()
            if stamps == self._stamps:
                return False
            self._stamps = stamps
            self._static, self._key = self._read()
        except TokenFileError as exc:
            logger.error("%s; the tokens stay as they were", exc)
            return False
        logger.info("read %d static tokens again", len(self._static))
        return True

    def _verify_jwt(self, text: str, config: JwtConfig) -> Token:
        key = self._key
        try:
            payload = jwt.decode(
                text,
                key,
                algorithms=[config.algorithm],
                audience=config.audience,
                leeway=LEEWAY_S,
                options={"require": ["exp", "sub"]},
            )
            claims = msgspec.convert(payload, Claims)
            limits = read_limits(claims.limits, self._config.limits)
        except jwt.ExpiredSignatureError as exc:
            raise unauthorized("the token has expired") from exc
        except Exception as exc:  # deep JSON, for one, is a RecursionError
            raise unauthorized(f"the token is not valid: {type(exc).__name__}") from exc
        return Token(f"jwt {claims.sub}", limits, digest_of(key))

    def _read_stamps(self) -> dict[str, Stamp]:
        signed = self._config.jwt
        files = (self._config.tokens_file, None if signed is None else signed.key_file)
        return {file: stamp_of(file) for file in files if file is not None}

    def _read(self) -> tuple[dict[bytes, Token], Any]:
        file, signed = self._config.tokens_file, self._config.jwt
        static = {} if file is None else read_tokens(file, self._config.limits)
        return static, None if signed is None else read_key(signed)


def unauthorized(text: str) -> Refused:
    """The refusal of a client without a valid token."""
    return Refused(text, code="unauthorized", close_code=1008)


def read_tokens(file: str, defaults: TokenLimits) -> dict[bytes, Token]:
    """The static tokens of a YAML file by their SHA-256. Raises TokenFileError."""
    try:
        entries = msgspec.yaml.decode(read_file(file), type=list[TokenEntry])
    except msgspec.ValidationError as exc:
        raise TokenFileError(f"{file}: {exc}") from exc
    except Exception as exc:  # PyYAML quotes the text in some of its errors
        raise TokenFileError(f"{file}: not YAML") from exc
    tokens: dict[bytes, Token] = {}
    names: set[str] = set()
    for index, entry in enumerate(entries):
        if (entry.token is None) == (entry.sha256 is None):
            raise TokenFileError(f"{file}: [{index}]: expected either `token` or `sha256`")
        text, known = entry.token, entry.sha256
        digest = hashlib.sha256(text.encode()).digest() if text else bytes.fromhex(known or "")
        if digest in tokens or entry.name in names:
            raise TokenFileError(f"{file}: [{index}]: {entry.name!r} repeats a name or a token")
        names.add(entry.name)
        try:
            limits = read_limits(entry.limits, defaults)
        except msgspec.ValidationError as exc:
            raise TokenFileError(f"{file}: [{index}].limits: {exc}") from exc
        tokens[digest] = Token(f"token {entry.name}", limits, digest)
    return tokens


def read_limits(given: Mapping[str, Any], defaults: TokenLimits) -> TokenLimits:
    """The defaults, replaced by those that are given. Raises ValidationError."""
    return msgspec.convert(asdict(defaults) | dict(given), TokenLimits)


def read_key(config: JwtConfig) -> bytes | Ed25519PublicKey:
    """The key that checks signatures. Raises TokenFileError."""
    data = read_file(config.key_file)
    if config.algorithm == "HS256":
        secret = data.strip()
        if len(secret) < MIN_SECRET_BYTES or secret.startswith(b"-----BEGIN"):
            expected = f"expected a secret of {MIN_SECRET_BYTES} bytes or more"
            raise TokenFileError(f"{config.key_file}: {expected} for HS256")
        return secret
    try:
        key = load_pem_public_key(data)
    except Exception as exc:  # the library has several kinds
        raise TokenFileError(f"{config.key_file}: not a public key in PEM") from exc
    if not isinstance(key, Ed25519PublicKey):
        raise TokenFileError(f"{config.key_file}: expected an Ed25519 public key for EdDSA")
    return key


def read_operator_token(file: str) -> str:
    """The token that a file consists of. Raises TokenFileError."""
    try:
        token = read_file(file).decode().strip()
    except UnicodeDecodeError as exc:
        raise TokenFileError(f"{file}: not UTF-8") from exc
    if not token:
        raise TokenFileError(f"{file}: is empty, expected a token")
    return token


def digest_of(key: bytes | Ed25519PublicKey | None) -> bytes:
    """Identifies a key without its content."""
    if key is None:
        return b""
    raw = key if isinstance(key, bytes) else key.public_bytes_raw()
    return hashlib.sha256(b"key" + raw).digest()


def read_file(file: str) -> bytes:
    """Raises TokenFileError."""
    try:
        with open(file, "rb") as opened:
            return opened.read()
    except OSError as exc:
        raise TokenFileError(f"{file}: {exc.strerror}") from exc


def stamp_of(file: str) -> Stamp:
    """Changes when the file is written or replaced. Raises TokenFileError."""
    try:
        stat = os.stat(file)
    except OSError as exc:
        raise TokenFileError(f"{file}: {exc.strerror}") from exc
    return stat.st_mtime_ns, stat.st_size, stat.st_ino
