"""The keys of `args.access`: the files of tokens, and the limits of each token.

Tested in `tests/transport/test_tokens.py`.
"""

from typing import Annotated, Literal

from msgspec import Meta, Struct

# Replicas have working directories of their own.
SecretFile = Annotated[str, Meta(pattern="^/[^\\0]+\\Z", description="an absolute path")]
Count = Annotated[int, Meta(ge=0, le=1_000_000)]


class TokenLimits(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The limits of one token, on all replicas together."""

    max_sessions: Count = 4  # open sockets at once, waiting ones included
    max_clips: Count = 1  # clips that are generated at once
    opens_per_minute: Count = 30  # sockets and clips that begin within any 60 s


class JwtConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How signed tokens are checked."""

    key_file: SecretFile  # HS256: the secret; EdDSA: the Ed25519 public key, as PEM
    algorithm: Literal["HS256", "EdDSA"]
    audience: Annotated[str, Meta(min_length=1)] | None = None  # None: tokens without `aud` alone


class AccessConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The tokens that are let in. Their files are read again when they change."""

    tokens_file: SecretFile | None = None  # a YAML list of static tokens
    jwt: JwtConfig | None = None
    limits: TokenLimits = TokenLimits()  # for a token without its own

    @property
    def is_empty(self) -> bool:
        """True if no token could be let in."""
        return self.tokens_file is None and self.jwt is None
