"""The shop's goods: the same ones on every machine, made from a seed. Pure values, no HTML and no I/O; `pages` shows them."""

from __future__ import annotations

import hashlib
import struct
import zlib
from dataclasses import dataclass
from typing import Final

SEED: Final = "edgecache-shop"
PRODUCT_COUNT: Final = 48
LANGUAGES: Final = ("en", "de", "fr")

_KINDS: Final = {
    "en": ("Kettle", "Lamp", "Notebook", "Backpack", "Bicycle Bell", "Teapot", "Blanket", "Wall Clock"),
    "de": ("Wasserkocher", "Lampe", "Notizbuch", "Rucksack", "Fahrradklingel", "Teekanne", "Decke", "Wanduhr"),
    "fr": ("Bouilloire", "Lampe", "Carnet", "Sac à dos", "Sonnette de vélo", "Théière", "Couverture", "Horloge"),
}
_MAKES: Final = ("Fjord", "Amber", "Halden", "Ostra", "Linden", "Marlow")
_PRAISE: Final = {
    "en": (
        "Made to be repaired.",
        "Quiet, and built to last.",
        "Small enough to carry.",
        "Better every year.",
        "Light in the hand.",
    ),
    "de": (
        "Zum Reparieren gemacht.",
        "Leise und langlebig.",
        "Klein genug zum Mitnehmen.",
        "Jedes Jahr besser.",
        "Liegt leicht in der Hand.",
    ),
    "fr": (
        "Fait pour être réparé.",
        "Silencieux et durable.",
        "Assez petit pour voyager.",
        "Meilleur chaque année.",
        "Léger en main.",
    ),
}


@dataclass(frozen=True, slots=True)
class Product:
    """One thing for sale. The price is in euro cents; `hue` is its colour in degrees."""

    number: int
    slug: str
    names: tuple[str, ...]
    """One for each of LANGUAGES."""
    descriptions: tuple[str, ...]
    price_cents: int
    stock: int
    hue: int

    def name(self, language: str) -> str:
        return self.names[LANGUAGES.index(language)]

    def description(self, language: str) -> str:
        return self.descriptions[LANGUAGES.index(language)]

    @property
    def price(self) -> str:
        return f"{self.price_cents // 100}.{self.price_cents % 100:02d}"


def products() -> tuple[Product, ...]:
    """All goods, by number from 1."""
    return _PRODUCTS


def by_number(number: int) -> Product | None:
    return _PRODUCTS[number - 1] if 1 <= number <= len(_PRODUCTS) else None


def by_slug(slug: str) -> Product | None:
    return _BY_SLUG.get(slug)


def search(query: str, language: str, limit: int = 20) -> tuple[Product, ...]:
    """Goods whose name or description holds every word of `query`."""
    words = query.casefold().split()[:8]
    found = (p for p in _PRODUCTS if all(w in f"{p.name(language)} {p.description(language)}".casefold() for w in words))
    return tuple(found)[:limit] if words else ()


def language_of(accept_language: str) -> str:
    """The best of LANGUAGES for an Accept-Language value (RFC 9110 section 12.5.4), by quality, then by order."""
    best, best_quality = LANGUAGES[0], 0.0
    for part in accept_language[:1000].split(","):
        tag, _, parameters = part.partition(";")
        primary = tag.strip().lower().partition("-")[0]
        try:
            quality = float(parameters.strip().removeprefix("q=")) if parameters else 1.0
        except ValueError:
            continue
        if primary in LANGUAGES and best_quality < quality <= 1:
            best, best_quality = primary, quality
    return best


def svg(product: Product) -> bytes:
    """A drawing of the product: its initial on a disc of its colour."""
    dark, light = f"hsl({product.hue} 55% 38%)", f"hsl({product.hue} 70% 92%)"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 240 180" role="img" aria-label="{product.names[0]}">'
        f'<rect width="240" height="180" fill="{light}"/><circle cx="120" cy="90" r="58" fill="{dark}"/>'
        f'<text x="120" y="112" font-family="Georgia,serif" font-size="64" text-anchor="middle" fill="{light}">'
        f"{product.names[0].split()[-1][0]}</text></svg>\n"
    ).encode()


def png(product: Product, width: int = 160, height: int = 120) -> bytes:
    """A gradient in the product's colour as a PNG of 8-bit RGB (ISO/IEC 15948)."""
    red, green, blue = (_pick(product.number, f"rgb{channel}", 60, 220) for channel in range(3))
    rows = bytearray()
    for y in range(height):
        shade = 255 - (y * 120 // height)
        pixel = bytes((red * shade // 255, green * shade // 255, blue * shade // 255))
        rows += b"\0" + pixel * width
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(rows), 6)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_png_chunk(name, data) for name, data in chunks)


def _png_chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def _pick(number: int, what: str, low: int, high: int) -> int:
    raw = hashlib.sha256(f"{SEED}/{number}/{what}".encode()).digest()
    return low + int.from_bytes(raw[:8]) % (high - low + 1)


def _product(number: int) -> Product:
    kind = (number - 1) % len(_KINDS["en"])
    make = _MAKES[(number - 1) // len(_KINDS["en"]) % len(_MAKES)]
    names = tuple(f"{make} {_KINDS[language][kind]}" for language in LANGUAGES)
    praise = _pick(number, "praise", 0, len(_PRAISE["en"]) - 1)
    return Product(
        number=number,
        slug=names[0].lower().replace(" ", "-"),
        names=names,
        descriptions=tuple(_PRAISE[language][praise] for language in LANGUAGES),
        price_cents=_pick(number, "price", 490, 19990),
        stock=_pick(number, "stock", 0, 40),
        hue=_pick(number, "hue", 0, 359),
    )


_PRODUCTS: Final = tuple(_product(number) for number in range(1, PRODUCT_COUNT + 1))
_BY_SLUG: Final = {product.slug: product for product in _PRODUCTS}
