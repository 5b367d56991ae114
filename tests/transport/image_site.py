"""A TLS server on loopback that stands for every host. The fixture `site` is one."""

import datetime
import ssl
from contextlib import asynccontextmanager

import anyio
import pytest
from aiohttp import TCPConnector, web
from aiohttp.abc import AbstractResolver
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.waiting import TIMEOUT_S
from transport.image_fetcher import ImageFetcher, public_connector
from transport.wire.errors import BadMessage

HOSTS = ("images.example.com", "xn--bcher-kva.example")
URL = "https://images.example.com/a.png"
PIXELS = b"\x89PNG" + bytes(100)


def write_certificate(path):
    """Write a key and a self-signed certificate of HOSTS."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.UTC)
    names = x509.SubjectAlternativeName([x509.DNSName(host) for host in HOSTS])
    signed = (
        x509.CertificateBuilder(
            name, name, key.public_key(), 1, now, now + datetime.timedelta(days=1)
        )
        .add_extension(names, critical=False)
        .sign(key, hashes.SHA256())
    )
    encoding = serialization.Encoding.PEM
    path.write_bytes(
        key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + signed.public_bytes(encoding)
    )


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
            yield ImageFetcher(hosts, **({"connect": connect, "timeout_s": TIMEOUT_S} | options))
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
