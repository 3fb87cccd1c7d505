"""Users of the demo's shop: they look at products, ask the API, search, and read what generators make. Bodies are verified.

`python -m loadtests` runs this headless; with `locust -f loadtests/locustfile.py` it has Locust's own page.
"""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from locust import FastHttpUser, between, events, task
from locust.env import Environment

from loadtests.guard import must_be_local
from loadtests.tally import Kind, Tally, classify
from origin_sim import catalogue
from origin_sim.proof import TARGET_FIELD, mismatch

LANGUAGES = ("en", "de", "fr")
NAMES = ("Ada", "Grace", "Edsger", "Barbara", "Donald", "Radia")
WORDS = ("lamp", "kettle", "notebook", "blanket", "amber", "fjord")
GREETINGS = {"en": "Hello", "de": "Hallo", "fr": "Bonjour"}

Verify = Callable[[Mapping[str, str], bytes], str | None]

tally = Tally()
_started = time.monotonic()


class Visitor(FastHttpUser):
    """What all users have: one GET that checks its answer and counts it by what the edge did."""

    abstract = True
    wait_time = between(0.01, 0.1)

    def visit(self, name: str, target: str, verify: Verify, *, language: str = "", by_generator: bool = False) -> None:
        headers = {"Accept-Language": language} if language else {}
        with self.client.get(target, name=name, headers=headers, catch_response=True) as response:
            took = response.request_meta["response_time"] or 0.0
            kind = classify(response.headers.get("Cache-Status") if response.headers else None, by_generator=by_generator)
            if (failed := _failed(response, kind, by_generator=by_generator)) is not None or kind is None:
                tally.fail(name, str(failed), took)
                response.failure(failed)
            elif (wrong := verify(response.headers, response.content or b"")) is not None:
                tally.fail(name, wrong, took, kind=Kind.WRONG)
                response.failure(wrong)
            else:
                tally.add(kind, took)
                response.success()


def _failed(response: Any, kind: Kind | None, *, by_generator: bool) -> str | None:
    if response.status_code == 0:
        return f"no answer: {response.error}"
    if response.status_code != 200:
        return f"status {response.status_code}"
    if response.headers.get("Transfer-Encoding") == "chunked" and response.headers.get(TARGET_FIELD) is None and not by_generator:
        # What the origin broke within a chunk was cut off by the edge; Locust's client does not tell a cut from an end.
        return "an answer that the origin broke"
    length = response.headers.get("Content-Length")
    if length is not None and int(length) != len(response.content or b""):
        return "cut off before its Content-Length"
    return "no Cache-Status: this is no edge" if kind is None else None


def _origin(target: str) -> Verify:
    return lambda headers, body: mismatch(target, headers, body)


def _holds(*texts: str) -> Verify:
    def verify(_headers: Mapping[str, str], body: bytes) -> str | None:
        shown = body.decode("utf-8", "replace")
        return next((f"the page does not hold {text!r}" for text in texts if text not in shown), None)

    return verify


class Shopper(Visitor):
    """A person with a browser: a product, its picture, a search."""

    weight = 5

    @task(6)
    def product(self) -> None:
        goods = catalogue.products()
        # People look at few things often, and at many seldom.
        found = goods[min(int(random.paretovariate(0.8)) - 1, len(goods) - 1)]
        for target in (f"/products/{found.slug}", f"/images/{found.number}.svg"):
            self.visit(f"/{target.split('/')[1]}/…", target, _origin(target))

    @task(2)
    def listing(self) -> None:
        self.visit("/products", "/products", _origin("/products"))

    @task(2)
    def search(self) -> None:
        target = f"/search?q={random.choice(WORDS)}"
        self.visit("/search?q=…", target, _origin(target))

    @task(1)
    def cart(self) -> None:
        """Never stored."""
        self.visit("/cart", "/cart", lambda _headers, body: None if b"Your cart" in body else "no cart")


class ApiClient(Visitor):
    """A program that reads JSON in its user's language."""

    weight = 3

    @task
    def product(self) -> None:
        language, target = random.choice(LANGUAGES), f"/api/products/{random.randint(1, 20)}"
        self.visit("/api/products/…", target, _in_language(target, language), language=language)

    @task
    def listing(self) -> None:
        language, target = random.choice(LANGUAGES), f"/api/products?limit={random.choice((5, 10, 20))}"
        self.visit("/api/products", target, _in_language(target, language), language=language)


def _in_language(target: str, language: str) -> Verify:
    def verify(headers: Mapping[str, str], body: bytes) -> str | None:
        if (wrong := mismatch(target, headers, body)) is not None:
            return wrong
        found = json.loads(body).get("language")
        return None if found == language else f"asked for {language}, got {found}"

    return verify


class Reader(Visitor):
    """Somebody who reads what generators make, one after the other fresh."""

    weight = 2

    @task(4)
    def hello(self) -> None:
        language, name = random.choice(LANGUAGES), random.choice(NAMES)
        verify = _holds(f"{GREETINGS[language]}, {name}!")
        self.visit("/hello/…", f"/hello/{name}", verify, language=language, by_generator=True)

    @task(2)
    def fresh_hello(self) -> None:
        name = f"guest-{random.getrandbits(32):08x}"
        self.visit("/hello/… (new)", f"/hello/{name}", _holds(f"Hello, {name}!"), language="en", by_generator=True)

    @task(1)
    def guestinfo(self) -> None:
        self.visit("/guestinfo", "/guestinfo", _holds("REQUEST_METHOD", "x86_64"), by_generator=True)


@events.test_start.add_listener  # type: ignore[untyped-decorator]
def _begin(environment: Environment, **_: Any) -> None:
    global _started  # noqa: PLW0603 (Locust loads this file as a script, and calls its functions)
    must_be_local(str(environment.host or ""))
    _started = time.monotonic()


@events.quitting.add_listener  # type: ignore[untyped-decorator]
def _end(environment: Environment, **_: Any) -> None:
    seconds = time.monotonic() - _started
    print(f"\n{tally.table(seconds)}", flush=True)
    if path := os.environ.get("EDGECACHE_LOAD_JSON"):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(json.dumps(tally.as_json(seconds), indent=2) + "\n")
    environment.process_exit_code = 1 if tally.failed or not tally.total else 0
