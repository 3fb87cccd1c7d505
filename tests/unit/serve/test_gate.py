"""What a flood of addresses can do to the table of clients, and what it cannot."""

from __future__ import annotations

import ipaddress

from edgecache.policy.access import AccessRule, Refusal
from edgecache.serve.gate import Gate, Refused
from edgecache.sites import Site

SITE = Site(name="shop", hosts=("a",), origins=(), access=AccessRule(client_rate=1, client_burst=5))


def test_a_flood_of_addresses_takes_no_more_memory_than_the_table_has() -> None:
    gate = Gate()
    refused = 0
    for number in range(200_000):
        refused += gate.refuse(SITE, str(ipaddress.IPv4Address(0x0A000000 + number)), now=number / 1000) is not None
    assert len(gate) == 65_536
    assert refused == 0


def test_a_client_that_goes_on_asking_is_not_forgotten_among_them() -> None:
    gate = Gate(capacity=1000)
    answers = []
    for number in range(20_000):
        gate.refuse(SITE, f"2001:db8:{number:x}::1", now=0.0)
        if number % 500 == 0:
            answers.append(gate.refuse(SITE, "192.0.2.1", now=0.0))
    assert len(gate) == 1000
    assert answers == [None] * 5 + [Refused(Refusal.RATE, 1.0)] * 35


def test_the_addresses_of_one_ipv6_network_are_one_client() -> None:
    gate = Gate()
    answers = [gate.refuse(SITE, f"2001:db8:1:2::{number:x}", now=0.0) for number in range(1000)]
    assert sum(answer is None for answer in answers) == 5
    assert len(gate) == 1
    assert gate.refuse(SITE, "2001:db8:1:3::1", now=0.0) is None


def test_two_sites_count_a_client_apart() -> None:
    gate = Gate()
    other = Site(name="docs", hosts=("b",), origins=(), access=SITE.access)
    for _ in range(6):
        last = gate.refuse(SITE, "192.0.2.1", now=0.0)
    assert last is not None
    assert gate.refuse(other, "192.0.2.1", now=0.0) is None


def test_a_flood_of_one_sites_clients_has_no_others_client_forgotten() -> None:
    gate = Gate(capacity=1000)
    others = [Site(name=f"site-{number}", hosts=("b",), origins=(), access=SITE.access) for number in range(9)]
    for site in others:
        for number in range(50):
            for _ in range(5):
                gate.refuse(site, f"198.51.100.{number}", now=0.0)
    for number in range(20_000):
        gate.refuse(SITE, f"2001:db8:{number:x}::1", now=0.0)
    assert len(gate) == 1000
    for site in others:
        assert all(gate.refuse(site, f"198.51.100.{number}", now=0.0) for number in range(50))


def test_the_table_is_shared_by_all_sites_that_use_it() -> None:
    gate = Gate(capacity=100)
    for number in range(500):
        site = Site(name=f"site-{number}", hosts=("b",), origins=(), access=SITE.access)
        assert gate.refuse(site, "192.0.2.1", now=0.0) is None
        assert gate.refuse(site, "192.0.2.2", now=0.0) is None
    assert len(gate) == 100
