"""S6: a server that is not this machine must prove itself, unless the URL asks for less.

The wheel's PostgreSQL is built without TLS, so a proxy speaks it in front of the server, as poolers do.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from localstore.errors import ConfigurationError, PostgresUnavailable
from localstore.postgres.connect import Server, connection_to, is_retryable
from tests.integration.proxy import Proxy, proxy_to

# Another spelling of 127.0.0.1: every resolver knows it, but it does not read as this machine.
REMOTE = "127.1"


@dataclass(frozen=True)
class Encrypted:
    """A server that speaks TLS with a certificate for 127.0.0.1 and `localhost`, and the file of its authority."""

    proxy: Proxy
    authority: Path

    async def is_encrypted(self, host: str, *options: tuple[str, str]) -> bool:
        """Connect under a host's name and return whether TLS was spoken."""
        before = self.proxy.handshakes
        await connected(self.proxy.server, host, *options)
        return self.proxy.handshakes > before


async def connected(server: Server, host: str, *options: tuple[str, str]) -> None:
    """Log in to the server under another name of its host."""
    named = Server((host,), server.ports, server.user, server.password, server.database, options)
    async with connection_to(named) as connection:
        assert await connection.fetchval("SELECT 1") == 1


@pytest.fixture
async def encrypted(production: str, tmp_path: Path) -> AsyncIterator[Encrypted]:
    """Put TLS in front of the production database."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localstore test")])
    now = dt.datetime.now(dt.UTC)
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    authority = tmp_path / "authority.crt"
    authority.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    secret = tmp_path / "server.key"
    secret.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority, secret)
    async with proxy_to(Server.parse(production), context) as proxy:
        yield Encrypted(proxy, authority)


async def test_S6_unknown_certificate_is_refused_by_default(encrypted: Encrypted) -> None:
    """Without an sslmode, a remote server whose certificate nobody vouches for is refused before any login."""
    with pytest.raises(PostgresUnavailable, match="verified TLS") as caught:
        await encrypted.is_encrypted(REMOTE)
    assert "sslrootcert" in caught.value.hint
    assert caught.value.__cause__ is not None
    assert not is_retryable(caught.value.__cause__)
    assert not encrypted.proxy.sent


async def test_S6_server_without_tls_is_refused_by_default(production: str) -> None:
    """Without an sslmode, a remote server that speaks no TLS is refused."""
    with pytest.raises(PostgresUnavailable, match="verified TLS"):
        await connected(Server.parse(production), REMOTE)


@pytest.mark.parametrize("mode", [(), (("sslmode", "verify-full"),)])
async def test_S6_wrong_name_in_the_certificate_is_refused(
    encrypted: Encrypted, mode: tuple[tuple[str, str], ...]
) -> None:
    """A trusted certificate of another name is refused, without an sslmode and with verify-full."""
    with pytest.raises(PostgresUnavailable, match="verified TLS"):
        await encrypted.is_encrypted(REMOTE, *mode, ("sslrootcert", str(encrypted.authority)))


async def test_trusted_certificate_of_the_right_name_is_taken(encrypted: Encrypted) -> None:
    """The mode verify-full goes through where authority and name are right."""
    options = (("sslmode", "verify-full"), ("sslrootcert", str(encrypted.authority)))
    assert await encrypted.is_encrypted("localhost", *options)


async def test_named_sslmode_is_obeyed(encrypted: Encrypted) -> None:
    """Who names an sslmode gets that one: encrypted without proof, by authority alone, or in plain text."""
    assert await encrypted.is_encrypted(REMOTE, ("sslmode", "require"))
    authority = ("sslrootcert", str(encrypted.authority))
    assert await encrypted.is_encrypted(REMOTE, ("sslmode", "verify-ca"), authority)
    assert not await encrypted.is_encrypted(REMOTE, ("sslmode", "disable"))


@pytest.mark.parametrize("mode", ["verify-full", "verify-ca", "require"])
async def test_missing_authority_file_is_named(encrypted: Encrypted, mode: str) -> None:
    """An sslrootcert that is not there is an error of configuration, whichever mode would have used it."""
    with pytest.raises(ConfigurationError, match="certificate file of sslrootcert"):
        await encrypted.is_encrypted("localhost", ("sslmode", mode), ("sslrootcert", "/no/such/file.crt"))


async def test_loopback_needs_no_certificate(encrypted: Encrypted) -> None:
    """On this machine the server's word is enough; TLS is used where it is there."""
    assert await encrypted.is_encrypted("localhost")
