from __future__ import annotations

import struct
import zlib

import pytest

from origin_sim import catalogue, pages, proof


def test_goods_are_the_same_on_every_machine() -> None:
    goods = catalogue.products()
    assert len(goods) == catalogue.PRODUCT_COUNT == len({product.slug for product in goods})
    first = goods[0]
    assert (first.slug, first.name("de"), first.price, first.stock) == (
        "fjord-kettle",
        "Fjord Wasserkocher",
        first.price,
        first.stock,
    )
    assert catalogue.by_slug("fjord-kettle") is first
    assert catalogue.by_number(0) is catalogue.by_number(49) is catalogue.by_slug("none") is None


@pytest.mark.parametrize(
    ("field", "language"),
    [
        ("", "en"),
        ("de", "de"),
        ("de-AT, en;q=0.5", "de"),
        ("en;q=0.2, fr;q=0.9", "fr"),
        ("es, *;q=0.5", "en"),
        ("de;q=x, fr;q=0.1", "fr"),
        ("de;q=7", "en"),
    ],
)
def test_language_is_the_best_that_there_is(field: str, language: str) -> None:
    assert catalogue.language_of(field) == language


def test_search_needs_every_word() -> None:
    assert {product.slug for product in catalogue.search("fjord kettle", "en")} == {"fjord-kettle"}
    assert len(catalogue.search("lamp", "en")) == 6
    assert catalogue.search("", "en") == catalogue.search("kettle bicycle", "en") == ()


def test_the_png_is_one() -> None:
    data = catalogue.png(catalogue.products()[0], 16, 9)
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">II", data[16:24]) == (16, 9)
    length = struct.unpack(">I", data[33:37])[0]
    assert len(zlib.decompress(data[41 : 41 + length])) == 9 * (1 + 16 * 3)


def test_what_a_visitor_typed_is_escaped() -> None:
    page = pages.search("/search?q=<script>", "<script>alert(1)</script>")
    assert b"<script" not in page.body


@pytest.mark.parametrize("size", [0, 1, 65_535, 65_536, 65_537, 1_000_000])
def test_filler_has_its_size_and_its_digest(size: int) -> None:
    body = b"".join(proof.filler("/file", size))
    assert len(body) == size
    assert proof.filler_digest("/file", size) == proof.digest(body)


def test_proof_tells_a_wrong_body_from_a_right_one() -> None:
    headers = {"X-Origin-Target": "/a", "Repr-Digest": proof.digest(b"a")}
    assert proof.mismatch("/a", headers, b"a") is None
    assert "does not match its digest" in (proof.mismatch("/a", headers, b"b") or "")
    assert "got the body of /a" in (proof.mismatch("/b", headers, b"a") or "")
    assert "got the body of None" in (proof.mismatch("/b", {}, b"a") or "")
