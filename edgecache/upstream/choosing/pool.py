"""The origins of one site: whose turn it is, and the condition of each by what its requests have shown.

`origins` asks it for each request; decisions are `balancing`'s, `ejection`'s and `breaker`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from edgecache.policy.lookup import ERROR_STATUSES
from edgecache.policy.message import Request
from edgecache.policy.upstream import Balance, UpstreamRule
from edgecache.source import Culprit, SourceError
from edgecache.upstream.choosing.balancing import Condition, turn
from edgecache.upstream.choosing.ejection import Ejection, may_eject
from edgecache.upstream.choosing.figures import OriginFigures
from edgecache.upstream.choosing.member import Member
from edgecache.upstream.choosing.retrying import UNREACHED, RetryBudget
from edgecache.upstream.endpoint import Endpoint

Down = Callable[[Endpoint, UpstreamRule], bool]
"""Whether the health checks of an endpoint fail."""


class Pool:
    """Made anew when the site's origins or its rule change; `known` are the members of the one before."""

    def __init__(
        self,
        urls: tuple[str, ...],
        rule: UpstreamRule,
        *,
        reach: Ejection,
        clock: Callable[[], float],
        down: Down = lambda _endpoint, _rule: False,
        known: Mapping[Endpoint, Member] | None = None,
    ) -> None:
        self.urls = urls
        self.rule = rule
        self.budget = RetryBudget(rule.retries.budget)
        self._balance = rule.balance_of(urls)
        self._reach = reach
        self._clock = clock
        self._down = down
        members = []
        for origin in rule.members(urls):
            endpoint = Endpoint(origin.url, rule.tls, origin.proxy_protocol)
            member = (known or {}).get(endpoint) or Member(endpoint, origin, rule)
            member.origin, member.rule = origin, rule
            members.append(member)
        self.members = tuple(members)
        self._credits = (0,) * len(members)

    def turn(self, request: Request, fit: Callable[[Member], bool] | None = None) -> list[Member]:
        """The origins that may be asked now, in the order in which to try them.

        Where there are several and the first is not `fit`, there are none, and it stays that one's turn.
        """
        if len(self.members) == 1 and self.condition(self.members[0]) in {Condition.HEALTHY, Condition.EJECTED}:
            return [self.members[0]]
        candidates = [replace(member.candidate(), condition=self.condition(member)) for member in self.members]
        key = f"{request.authority}{request.target}" if self._balance is Balance.HASH else ""
        order, spent = turn(candidates, self._balance, key.encode("utf-8", "surrogateescape"), self._credits)
        if fit is not None and not (order and fit(self.members[order[0]])):
            return []
        self._credits = spent
        return [self.members[at] for at in order]

    def condition(self, member: Member) -> Condition:
        now = self._clock()
        if self._down(member.endpoint, self.rule):
            return Condition.DOWN
        if member.open(now):
            return Condition.OPEN
        if member.ejected(now) or self._reach.ejected(member.endpoint, now):
            return Condition.EJECTED
        return Condition.HEALTHY

    def refusal(self) -> SourceError:
        """Why nobody can be asked, where `turn` has found nobody."""
        if not self.members:
            return SourceError(Culprit.ORIGIN, "connect", "the site has no origin")
        if any(member.open(self._clock()) for member in self.members):
            return SourceError(Culprit.ORIGIN, "breaker-open", "too many requests in a row have failed", status=503)
        return SourceError(Culprit.ORIGIN, "unhealthy", "no origin passes its health checks", status=503)

    def judge(self, member: Member, status: int) -> None:
        """`member` has answered with `status`."""
        if status in ERROR_STATUSES:
            self.failed(member, "error-status")
        else:
            self.succeeded(member)

    def succeeded(self, member: Member) -> None:
        self._reach.succeeded(member.endpoint)
        member.succeeded()

    def failed(self, member: Member, reason: str) -> None:
        """`reason`: a SourceError's, or `error-status`."""
        now = self._clock()
        if reason in UNREACHED:
            self._reach.failed(member.endpoint, now)
        else:
            self._reach.succeeded(member.endpoint)
        ejected = sum(other.ejected(now) for other in self.members)
        rule = self.rule.ejection
        member.failed(now, may_eject=rule is not None and may_eject(ejected, len(self.members), rule.max_share))

    def figures(self, site: str) -> tuple[OriginFigures, ...]:
        return tuple(
            OriginFigures(
                site=site,
                url=member.origin.url,
                state=str(self.condition(member)),
                backup=member.origin.backup,
                requests=member.requests,
                failures=member.failures,
                retries=member.retries,
                hedges=member.hedges,
                connections=member.active,
                pending=member.waiting,
            )
            for member in self.members
        )
