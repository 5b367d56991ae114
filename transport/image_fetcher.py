"""Images that clients name by URL, fetched from the hosts that `image_hosts` lists.

A client must not reach private servers through this one. A host is listed by its name, and its
certificate is checked. An address that is not public is refused when the socket to it is created,
so that no second lookup of the name can change it.
"""

import logging
import re
import socket
from collections.abc import Callable, Collection
from errno import EACCES
from ipaddress import IPv6Address, IPv6Network, ip_address
from typing import Any

import anyio
from aiohttp import (
    BaseConnector,
    ClientError,
    ClientResponse,
    ClientSession,
    ClientTimeout,
    DummyCookieJar,
    TCPConnector,
    ThreadedResolver,
)
from anyio import CapacityLimiter
from yarl import URL

from transport.wire.errors import BadMessage, quote

TIMEOUT_S = 5.0  # for one image, with its redirects
MAX_BYTES = 16 * 2**20
MAX_REDIRECTS = 3
MAX_FETCHES = 4  # at once, each with up to MAX_BYTES
IMAGE_TYPES = ("image/", "application/octet-stream", "binary/octet-stream")
EXPECTED = "expected the image's bytes, its base64 or a data URL"

_URL = re.compile(r"\s*[a-z][a-z0-9+.-]*://", re.ASCII | re.IGNORECASE)
_GLOBAL_UNICAST = IPv6Network("2000::/3")
_HEADERS = {"accept": "image/*", "accept-encoding": "identity", "user-agent": "lingbot-serve"}

logger = logging.getLogger(__name__)


class FetchFailed(Exception):
    """There is no image at the URL. The text is for the client, and follows the field's name."""


def is_public(address: str) -> bool:
    """True for a unicast address of the public Internet, whichever family it is written in."""
    parsed = ip_address(address.partition("%")[0])
    if isinstance(parsed, IPv6Address):
        if parsed.ipv4_mapped is not None:
            parsed = parsed.ipv4_mapped
        elif parsed not in _GLOBAL_UNICAST or parsed.sixtofour or parsed.teredo:
            return False  # tunnels lead to an IPv4 address that nothing here has checked
    return parsed.is_global and not parsed.is_multicast


def public_connector(**options: Any) -> TCPConnector:
    """A connector that opens sockets to public addresses alone, by name or by number.

    `options` are those of aiohttp's.
    """

    def open_socket(info: tuple[Any, ...]) -> socket.socket:
        family, kind, protocol, _, (host, *_) = info
        if not is_public(host):
            raise OSError(EACCES, f"{host} is not a public address")
        return socket.socket(family, kind, protocol)

    return TCPConnector(**({"resolver": ThreadedResolver()} | options), socket_factory=open_socket)


class ImageFetcher:
    """Fetches for all clients of a process. Without `hosts` it refuses every URL."""

    def __init__(
        self,
        hosts: Collection[str] = (),
        *,
        connect: Callable[[], BaseConnector] = public_connector,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        """`hosts` are lower-case names, without a port. `connect` makes a connector per image."""
        self._hosts = tuple(hosts)
        self._connect = connect
        self._timeout_s = timeout_s
        self._limiter = CapacityLimiter(MAX_FETCHES)

    async def fetch(self, source: bytes | str, *, field: str) -> bytes | str:
        """The bytes at the URL; any other source as it is. Raises BadMessage that names `field`."""
        if isinstance(source, bytes) or not _URL.match(source):
            return source
        try:
            async with self._limiter:
                with anyio.fail_after(self._timeout_s):
                    return await self._fetch(source)
        except FetchFailed as exc:
            reason = str(exc)
        except TimeoutError:
            reason = f"took too long to fetch, expected at most {self._timeout_s:g} s"
        except (ClientError, OSError) as exc:
            logger.info("an image could not be fetched: %s", exc)
            reason = "cannot be fetched, expected a public server with a valid certificate"
        raise BadMessage(f"`{field}` {reason}", field=field)

    async def _fetch(self, text: str) -> bytes:
        async with ClientSession(
            connector=self._connect(),
            cookie_jar=DummyCookieJar(),
            headers=_HEADERS,
            auto_decompress=False,
            timeout=ClientTimeout(total=None),  # the caller has one for all requests together
        ) as session:
            url = self._check(text)
            for _ in range(1 + MAX_REDIRECTS):
                async with session.get(url, allow_redirects=False) as response:
                    location = response.headers.get("location")
                    if not 300 <= response.status < 400 or location is None:
                        return await _read_image(response)
                url = self._check(location, base=url)
        raise FetchFailed(f"is redirected more than {MAX_REDIRECTS} times")

    def _check(self, text: str, *, base: URL | None = None) -> URL:
        """The URL, parsed as it will be used. Raises FetchFailed if it may not be fetched."""
        if not self._hosts:
            raise FetchFailed(
                f"is a URL, and this server fetches none (`image_hosts` is empty), {EXPECTED}"
            )
        try:
            url = URL(text) if base is None else base.join(URL(text))
        except ValueError as exc:
            raise FetchFailed(f"is not a valid URL, {EXPECTED}") from exc
        if url.raw_host not in self._hosts:
            listed = ", ".join(self._hosts)
            raise FetchFailed(
                f"is a URL of {quote(url.raw_host)}, "
                f"which `image_hosts` of this server does not list, expected one of: {listed}"
            )
        if url.scheme != "https" or url.port != 443 or url.raw_user or url.raw_password:
            raise FetchFailed("is a URL with another scheme, port or user, expected https://HOST/")
        return url


async def _read_image(response: ClientResponse) -> bytes:
    """The body of a response that may be an image. Raises FetchFailed."""
    if response.status != 200:
        raise FetchFailed(f"cannot be fetched: its server answered {response.status}, expected 200")
    if not response.content_type.startswith(IMAGE_TYPES):
        raise FetchFailed(f"is of type {quote(response.content_type)}, expected an image")
    data = bytearray()
    if (response.content_length or 0) <= MAX_BYTES:
        async for piece in response.content.iter_chunked(65_536):
            data += piece
            if len(data) > MAX_BYTES:
                break
        else:
            return bytes(data)
    raise FetchFailed(f"is too large, expected at most {MAX_BYTES} bytes")
