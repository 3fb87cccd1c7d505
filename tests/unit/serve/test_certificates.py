"""Which certificate a name gets, and that a bad reload changes nothing."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
import trustme
from cryptography.hazmat.primitives import serialization

from edgecache.serve.accepting.certificates import CertificateError, CertificateFiles, Certificates, find


@pytest.mark.parametrize(
    ("name", "pattern"),
    [
        ("shop.test", "shop.test"),
        ("SHOP.test.", "shop.test"),
        ("a.shop.test", "*.shop.test"),
        ("b.a.shop.test", "*.a.shop.test"),
        ("other.test", "*"),
        ("test", "*"),
        ("", "*"),
        (None, "*"),
    ],
)
def test_the_nearest_name_wins(name: str | None, pattern: str) -> None:
    contexts = {known: ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER) for known in ("shop.test", "*.shop.test", "*.a.shop.test", "*")}
    assert find(contexts, name) is contexts[pattern]


def test_an_unknown_name_has_none() -> None:
    assert find({"shop.test": ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)}, "a.shop.test") is None


@pytest.mark.parametrize(
    ("broken", "why"),
    [
        ("chain", "chain.pem holds no certificate in PEM"),
        ("key", "No such file or directory"),
        ("no key", "key.pem holds no private key in PEM"),
        ("encrypted key", "the key is encrypted; decrypt it"),
        ("other key", "the key is that of another certificate"),
    ],
)
def test_what_cannot_be_used_is_told_without_its_content(tmp_path: Path, broken: str, why: str) -> None:
    authority = trustme.CA()
    issued = authority.issue_cert("shop.test")
    chain, key = tmp_path / "chain.pem", tmp_path / "key.pem"
    chain.write_bytes(issued.cert_chain_pems[0].bytes())
    key.write_bytes(issued.private_key_pem.bytes())
    files = CertificateFiles(("shop.test",), chain, key)
    certificates = Certificates([files])
    match broken:
        case "chain":
            chain.write_text("no certificate")
        case "key":
            key.unlink()
        case "no key":
            key.write_bytes(chain.read_bytes())
        case "encrypted key":
            private = serialization.load_pem_private_key(key.read_bytes(), None)
            secret = serialization.BestAvailableEncryption(b"secret")
            form = serialization.PrivateFormat.PKCS8
            key.write_bytes(private.private_bytes(serialization.Encoding.PEM, form, secret))
        case _:
            key.write_bytes(authority.issue_cert("shop.test").private_key_pem.bytes())
    with pytest.raises(CertificateError, match=str(chain)) as caught:
        certificates.reload()
    assert "PRIVATE" not in str(caught.value)
    assert why in str(caught.value)
    with pytest.raises(CertificateError):
        Certificates([files])
