"""URLs and addresses that may be fetched from."""

import anyio
import pytest
from aiohttp import TCPConnector

from tests.transport.image_site import HOSTS, PIXELS, URL
from tests.waiting import TIMEOUT_S
from transport.image_fetcher import ImageFetcher, is_public
from transport.wire.errors import BadMessage


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
        fetcher = ImageFetcher(["localhost"], timeout_s=TIMEOUT_S)
        await fetcher.fetch("https://localhost/", field="image")

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
