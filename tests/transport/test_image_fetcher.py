"""A TLS server on loopback stands for every host."""

import datetime
import ssl
import time
from contextlib import asynccontextmanager
from functools import partial

import anyio
import pytest
from aiohttp import TCPConnector, web
from aiohttp.abc import AbstractResolver
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from transport.image_fetcher import (
    MAX_BYTES,
    MAX_FETCHES,
    ImageFetcher,
    is_public,
    public_connector,
)
from transport.wire.errors import BadMessage

HOSTS = ("images.example.com", "xn--bcher-kva.example")
URL = "https://images.example.com/a.png"
PIXELS = b"\x89PNG" + bytes(100)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A file with a key and a self-signed certificate of HOSTS."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.UTC)
    names = x509.SubjectAlternativeName([x509.DNSName(host) for host in HOSTS])
    signed = (
        x509.CertificateBuilder(
            name, name, key.public_key(), 1, now, now.replace(year=now.year + 1)
        )
        .add_extension(names, critical=False)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "server.pem"
    encoding = serialization.Encoding.PEM
    path.write_bytes(
        key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + signed.public_bytes(encoding)
    )
    return path


class Resolver(AbstractResolver):
    """Every name has these addresses."""

    def __init__(self, *addresses, port):
        self.addresses, self.port, self.asked = addresses, port, []

    async def resolve(self, host, port=0, family=0):
        self.asked.append(host)
        return [
            {
                "hostname": host,
                "host": address,
                "port": self.port,
                "family": 10 if ":" in address else 2,
                "proto": 0,
                "flags": 0,
            }
            for address in self.addresses
        ]

    async def close(self):
        pass


class Site:
    """A server that records its requests. It answers with an image, or with `answer`."""

    def __init__(self, certificate):
        self.certificate, self.answer, self.asked, self.gone = certificate, {}, [], False
        self.handle = self.give

    async def give(self, request):
        return web.Response(**({"body": PIXELS, "content_type": "image/png"} | self.answer))

    async def serve(self, request):
        self.asked.append((request.host, request.path_qs, dict(request.headers)))
        try:
            return await self.handle(request)
        except BaseException:
            self.gone = True
            raise

    @asynccontextmanager
    async def open(self, *, hosts=HOSTS, public_only=False, addresses=("127.0.0.1",), **options):
        """A fetcher for which this server is behind every name."""
        app = web.Application()
        app.router.add_get("/{path:.*}", self.serve)
        runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=1)
        await runner.setup()
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(self.certificate)
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
        self.resolver = Resolver(*addresses, port=runner.addresses[0][1])
        trusted = ssl.create_default_context(cafile=self.certificate)

        def connect():
            connector = public_connector if public_only else TCPConnector
            return connector(resolver=self.resolver, ssl=trusted)

        try:
            yield ImageFetcher(hosts, **({"connect": connect, "timeout_s": 60} | options))
        finally:
            await runner.cleanup()

    def fetch(self, source, **options):
        """The bytes that a fetcher with these options returns."""

        async def scenario():
            async with self.open(**options) as fetcher:
                return await fetcher.fetch(source, field="image")

        return anyio.run(scenario)

    def refusal(self, source, **options):
        """The text of the error."""
        with pytest.raises(BadMessage) as refused:
            self.fetch(source, **options)
        assert (refused.value.code, refused.value.field) == ("invalid_field", "image")
        return str(refused.value)


@pytest.fixture
def site(certificate):
    return Site(certificate)


@pytest.mark.parametrize(
    "url",
    [
        URL,
        f"  {URL}\n",
        "HTTPS://Images.EXAMPLE.com/a.png",
        "https://images.example.com:443/a.png",
        "https://bücher.example/a.png",
        "https://xn--bcher-kva.example/a.png?size=2#top",
    ],
)
def test_an_image_of_a_listed_host_is_fetched(site, url):
    assert site.fetch(url) == PIXELS
    ((host, path, headers),) = site.asked
    assert host in HOSTS
    assert path in ("/a.png", "/a.png?size=2")
    assert (headers["Accept"], headers["Accept-Encoding"]) == ("image/*", "identity")
    assert "Cookie" not in headers


@pytest.mark.parametrize("source", [b"https://images.example.com/", "aGk=", "data:image/png,x", ""])
def test_what_is_no_url_is_left_as_it_is(site, source):
    assert site.fetch(source) == site.fetch(source, hosts=()) == source
    assert site.asked == []


@pytest.mark.parametrize("url", [URL, "http://10.0.0.1/", "file:///etc/passwd", "ftp://x/", "x://"])
def test_without_hosts_no_url_is_fetched(site, url):
    text = site.refusal(url, hosts=())
    assert text.startswith(
        "`image` is a URL, and this server fetches none (`image_hosts` is empty)"
    )
    assert "expected the image's bytes" in text
    assert site.resolver.asked == []


@pytest.mark.parametrize(
    "host",
    [
        "example.com",
        "images.example.com.evil.org",
        "images.example.com.",
        "images.example.com@evil.org",
        "evil.org?images.example.com",
        "evil.org#images.example.com",
        "127.0.0.1",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "2130706433",
        "0x7f.1",
        "localhost",
        "images%2eexample.com",
        "",
    ],
)
def test_a_host_that_is_not_listed_is_not_asked(site, host):
    text = site.refusal(f"https://{host}/a.png")
    assert "`image_hosts` of this server does not list, expected one of: images.exam" in text
    assert site.resolver.asked == site.asked == []


@pytest.mark.parametrize(
    "url",
    [
        "http://images.example.com/a.png",
        "ftp://images.example.com/a.png",
        "https://images.example.com:8443/a.png",
        "https://images.example.com:80/a.png",
        "https://user@images.example.com/a.png",
        "https://user:word@images.example.com/a.png",
        "https://:word@images.example.com/a.png",
    ],
)
def test_another_scheme_port_or_user_is_refused(site, url):
    assert "expected https://HOST/" in site.refusal(url)
    assert site.resolver.asked == []


@pytest.mark.parametrize(
    "url", ["https://images.example.com:99999/", "https://evil.org\\@images.example.com/", "a://["]
)
def test_a_url_that_two_parsers_may_read_differently_is_refused(site, url):
    assert "is not a valid URL" in site.refusal(url)


PRIVATE = [
    "127.0.0.1",
    "127.1.2.3",
    "0.0.0.0",
    "10.0.0.1",
    "172.16.0.1",
    "192.168.1.1",
    "169.254.169.254",
    "100.64.0.1",
    "192.0.0.1",
    "198.18.0.1",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "::1",
    "::",
    "::127.0.0.1",
    "::ffff:127.0.0.1",
    "::ffff:169.254.169.254",
    "64:ff9b::7f00:1",
    "64:ff9b:1::1",
    "2002:7f00:1::",
    "2001:0:7f00:1::",
    "fc00::1",
    "fd00:ec2::254",
    "fe80::1",
    "fe80::1%eth0",
    "fec0::1",
    "ff02::1",
    "2001:db8::1",
]


@pytest.mark.parametrize("address", PRIVATE)
def test_an_address_that_is_not_public_is_told_apart(address):
    assert not is_public(address)


@pytest.mark.parametrize(
    "address", ["93.184.216.34", "1.1.1.1", "2606:4700::1111", "::ffff:1.1.1.1", "2a00:1450::1"]
)
def test_a_public_address_is_told_apart(address):
    assert is_public(address)


@pytest.mark.parametrize("addresses", [["127.0.0.1"], ["::ffff:127.0.0.1"], ["::1", "127.0.0.1"]])
def test_a_listed_host_at_a_private_address_is_not_connected_to(site, addresses, monkeypatch):
    """The address is checked where the socket is created, so no second lookup can change it."""
    text = site.refusal(URL, public_only=True, addresses=addresses)
    assert text == "`image` cannot be fetched, expected a public server with a valid certificate"
    assert site.resolver.asked == ["images.example.com"]
    assert site.asked == []
    monkeypatch.setattr("transport.image_fetcher.is_public", lambda address: True)
    assert site.fetch(URL, public_only=True, addresses=addresses) == PIXELS


def test_names_are_resolved_as_the_system_does(caplog):
    caplog.set_level("INFO")

    async def scenario():
        await ImageFetcher(["localhost"]).fetch("https://localhost/", field="image")

    with pytest.raises(BadMessage, match="cannot be fetched"):
        anyio.run(scenario)
    assert "is not a public address" in caplog.text


def test_a_listed_number_is_checked_too(site):
    """It is never resolved. A config refuses one, and the connector does as well."""
    assert "cannot be fetched" in site.refusal(
        "https://127.0.0.1/", hosts=["127.0.0.1"], public_only=True
    )
    assert site.asked == []


def test_a_certificate_that_is_not_trusted_is_refused(site):
    def connect():
        return TCPConnector(resolver=site.resolver)

    assert "expected a public server with a valid certificate" in site.refusal(URL, connect=connect)
    assert site.asked == []


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize(
    "location, text",
    [
        ("https://evil.org/", "does not list"),
        ("https://169.254.169.254/latest", "does not list"),
        ("//evil.org/", "does not list"),
        ("http://images.example.com/", "expected https://HOST/"),
        ("https://images.example.com:22/", "expected https://HOST/"),
        ("file:///etc/passwd", "does not list"),
        ("/a.png", "is redirected more than 3 times"),
    ],
)
def test_a_redirect_is_checked_as_the_url_is(site, status, location, text):
    site.answer = {"status": status, "headers": {"location": location}}
    assert text in site.refusal(URL)
    assert len(site.asked) == (4 if location == "/a.png" else 1)


@pytest.mark.parametrize("location", ["/b.png", "https://bücher.example/b.png", "b.png"])
def test_a_redirect_to_a_listed_host_is_followed(site, location):
    async def redirect_once(request):
        if request.path == "/a.png":
            return web.Response(status=302, headers={"location": location})
        return await site.give(request)

    site.handle = redirect_once
    assert site.fetch(URL) == PIXELS
    assert [path for _, path, _ in site.asked] == ["/a.png", "/b.png"]


@pytest.mark.parametrize(
    "answer, text",
    [
        ({"status": 404}, "its server answered 404, expected 200"),
        ({"status": 206}, "its server answered 206, expected 200"),
        ({"status": 302}, "its server answered 302, expected 200"),
        ({"content_type": "text/html"}, "is of type 'text/html', expected an image"),
        ({"content_type": "application/json"}, "is of type 'application/json', expected an image"),
        ({"body": bytes(MAX_BYTES + 1)}, f"is too large, expected at most {MAX_BYTES} bytes"),
    ],
)
def test_an_answer_that_is_no_image_is_refused(site, answer, text):
    site.answer = answer
    assert text in site.refusal(URL)


def test_an_image_of_the_largest_size_is_fetched(site):
    site.answer = {"body": bytes(MAX_BYTES), "content_type": "application/octet-stream"}
    assert len(site.fetch(URL)) == MAX_BYTES


def test_a_body_without_a_length_is_cut_off_at_the_limit(site):
    num_pieces = 0

    async def stream(request):
        nonlocal num_pieces
        answer = web.StreamResponse(headers={"content-type": "image/png"})
        await answer.prepare(request)
        while num_pieces < 64:
            await answer.write(bytes(2**20))
            num_pieces += 1

    site.handle = stream
    assert "is too large" in site.refusal(URL)
    assert 16 <= num_pieces < 40  # the rest was in buffers


def test_a_compressed_body_is_not_inflated(site):
    """A few kilobytes could inflate to gigabytes. The decoder refuses the bytes as no image."""
    site.answer = {"headers": {"content-encoding": "gzip"}}
    assert site.fetch(URL) == PIXELS


@pytest.mark.parametrize("moment", ["headers", "body", "redirects"])
def test_a_slow_server_is_given_up_after_the_time_for_all(site, moment):
    async def drip(request):
        if moment == "headers":
            await anyio.sleep(60)
        if moment == "redirects":
            await anyio.sleep(0.3)
            return web.Response(status=302, headers={"location": "/a.png"})
        answer = web.StreamResponse(headers={"content-type": "image/png"})
        await answer.prepare(request)
        while True:
            await answer.write(b"x")
            await anyio.sleep(0.05)

    site.handle = drip
    began = time.monotonic()
    text = site.refusal(URL, timeout_s=0.5)
    assert text == "`image` took too long to fetch, expected at most 0.5 s"
    assert time.monotonic() - began < 5


def test_a_body_that_breaks_off_is_refused(site):
    async def break_off(request):
        answer = web.StreamResponse(headers={"content-type": "image/png", "content-length": "99"})
        await answer.prepare(request)
        await answer.write(b"x")
        request.transport.abort()

    site.handle = break_off
    assert "cannot be fetched" in site.refusal(URL)


def test_a_cancelled_fetch_leaves_its_server_at_once(site):
    async def wait(request):
        await anyio.sleep(60)

    async def scenario():
        async with site.open() as fetcher:
            with anyio.move_on_after(0.3):
                await fetcher.fetch(URL, field="image")
            with anyio.fail_after(5):
                while not site.gone:
                    await anyio.sleep(0.01)

    site.handle = wait
    anyio.run(scenario)
    assert len(site.asked) == 1


def test_a_few_images_are_fetched_at_once(site):
    """Each may take 16 MiB."""
    num_running = []

    async def wait(request):
        num_running.append(num_running[-1] + 1 if num_running else 1)
        await anyio.sleep(0.1)
        num_running.append(num_running[-1] - 1)
        return await site.give(request)

    async def scenario():
        async with site.open() as fetcher, anyio.create_task_group() as tasks:
            for _ in range(3 * MAX_FETCHES):
                tasks.start_soon(partial(fetcher.fetch, URL, field="image"))

    site.handle = wait
    anyio.run(scenario)
    assert len(site.asked) == 3 * MAX_FETCHES
    assert 1 < max(num_running) <= MAX_FETCHES
