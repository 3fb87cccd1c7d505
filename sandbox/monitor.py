"""The sandbox's front door: register programs, call them, watch them. Lives on one asyncio loop in its user's process.

Untrusted code never runs in this process: it runs in jailed workers (`worker.py`), and `dispatch/dispatcher.py` says when.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import replace

from sandbox.call import EdgeCallRefused, EdgeCalls, GuestCall, refused
from sandbox.dispatch.dispatcher import Dispatcher
from sandbox.dispatch.images import Images
from sandbox.dispatch.lane import Generator, Lane
from sandbox.dispatch.ledger import NOTHING, Allocation
from sandbox.dispatch.policies import Isolation, MonitorPolicy
from sandbox.dispatch.quarantine import Score
from sandbox.dispatch.sharetree import ShareTree
from sandbox.dispatch.spawner import Spawner
from sandbox.engines import choose
from sandbox.errors import GuestFailed, ImageError, SandboxError
from sandbox.jail import JailReport
from sandbox.limits import KIB, SECOND_NS, Limits
from sandbox.outcome import End, Outcome, Usage
from sandbox.program import Program
from sandbox.queueing.nodes import NodePath, Share
from sandbox.request import GuestRequest
from sandbox.shares import DEFAULT_CLUSTER, ClusterShare, SiteShare
from sandbox.status import GeneratorStatus, MonitorStatus, ShareStatus, Verification, WorkerStatus

__all__ = ["Monitor", "MonitorPolicy", "NoEdge"]

_log = logging.getLogger(__name__)

_SWEEP_S = 0.25
_VERIFY_TENANT = "\0verify"
_VERIFY_CLUSTER = "\0verify"
"""Programs that are tried share one cluster's weight: however many are pushed, the sites' share is as large."""
VERIFYING = "(verifying)"
"""How status names that cluster, once it has used CPU time."""
_VERIFY_EXTRA_S = 30.0
"""For starting a worker and loading, beside the program's own boot and wall limits."""
_OUTPUT_HEAD = 64 * KIB


class NoEdge:
    """The edge calls of a program that is only tried: nothing is there, nothing is kept."""

    async def fetch(self, data: bytes) -> bytes:
        raise EdgeCallRefused(errno.ENETUNREACH, "a program that is being verified reaches nothing")

    async def kv_get(self, key: bytes) -> bytes | None:
        return None

    async def kv_put(self, key: bytes, value: bytes) -> bool:
        return False


class Monitor:
    """Start it, register programs, call them, close it. All methods on the loop that started it.

    `clock` gives seconds, monotonic: only the quarantine's back-off goes by it.
    """

    def __init__(self, policy: MonitorPolicy | None = None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._policy = policy or MonitorPolicy()
        self._clock = clock
        self._spawner = Spawner(self._policy.jail)
        self._dispatcher: Dispatcher | None = None
        self._generators: dict[str, Generator] = {}
        self._images = Images()
        self._sweeper: asyncio.Task[None] | None = None
        self._verifying = asyncio.Semaphore(self._policy.verifications)
        self._serial = 0
        self.jail = JailReport((), ())
        """What the jail is made of on this machine, after `start`."""

    async def __aenter__(self) -> Monitor:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def start(self) -> None:
        """Start the zygote and try one worker. Raises JailError, WorkerLost, EngineUnavailable."""
        if self._dispatcher is not None:
            raise RuntimeError("the monitor has been started")
        engine = choose(self._policy.engine)
        self._spawner.run_on(engine)
        try:
            probe = await self._spawner.spawn()
        except BaseException:
            await self._spawner.close()
            raise
        self.jail = probe.report
        probe.kill()
        for missing in self.jail.missing:
            _log.warning("workers run without %s: %s", missing.layer, missing.reason)
        self._dispatcher = Dispatcher(self._spawner, self._policy.dispatch, engine, self._clock)
        self._dispatcher.shares.set_cluster(_VERIFY_CLUSTER, ClusterShare(), self._dispatcher.now_ns())
        self._sweeper = asyncio.create_task(self._sweep(self._dispatcher))

    async def close(self) -> None:
        """End every request, worker, task and the zygote. Idempotent."""
        if self._sweeper is not None:
            self._sweeper.cancel()
            await asyncio.gather(self._sweeper, return_exceptions=True)
            self._sweeper = None
        if self._dispatcher is not None:
            await self._dispatcher.close()
            self._dispatcher = None
        self._generators.clear()
        self._images = Images()
        await self._spawner.close()

    def register(self, key: str, program: Program, limits: Limits, *, tenant: str, weight: int = 100) -> None:
        """Make a program callable. It is loaded and booted when it is first called. Raises ValueError: key in use, weight."""
        if key in self._generators:
            raise ValueError(f"a generator is registered as {key!r}")
        dispatcher = self._running()
        self._serial += 1
        by_site = self._policy.isolation is Isolation.SITE
        name = tenant if by_site else f"{tenant}/{key}#{self._serial}"
        lane = dispatcher.pool.lanes.get(name) or Lane(name, tenant, self._policy.dispatch.floor_ns)
        record = Score(self._policy.dispatch.quarantine)
        path = (tenant, f"{key}\0{self._serial}")
        shared = self._images.share(program)
        generator = Generator(key, self._serial, shared, limits, path=path, weight=weight, lane=lane, record=record)
        cluster = _VERIFY_CLUSTER if tenant.startswith(_VERIFY_TENANT) else DEFAULT_CLUSTER
        try:
            dispatcher.add(generator, 1 if by_site else self._policy.dispatch.most_at_once, cluster)
        except ValueError:
            self._images.release(shared)
            raise
        dispatcher.shares.set_generator(path, weight, _own_cap(limits, None), dispatcher.now_ns())
        self._generators[key] = generator

    def unregister(self, key: str) -> None:
        """Take no new requests for it; those that run end as they would. Harmless when the key is unknown."""
        generator = self._generators.pop(key, None)
        if generator is not None:
            self._images.release(generator.program)
            self._running().retire(generator)

    def set_weight(self, key: str, weight: int, cap: int | None = None) -> None:
        """A generator's share inside its tenant, and its cap in percent of one CPU, below that of its limits.

        Raises KeyError, ValueError.
        """
        dispatcher, generator = self._running(), self._generators[key]
        dispatcher.shares.set_generator(generator.path, weight, _own_cap(generator.limits, cap), dispatcher.now_ns())
        generator.weight = weight
        dispatcher.pump()

    def set_tenant_share(self, tenant: str, share: SiteShare) -> None:
        """A tenant's cluster and its share in it; kept while it has a generator. Raises KeyError, ValueError."""
        dispatcher = self._running()
        dispatcher.shares.set_site(tenant, share, dispatcher.now_ns())
        dispatcher.requests.pacer.set_rates(tenant, share.rates)
        dispatcher.pump()

    def set_cluster(self, name: str, share: ClusterShare) -> None:
        """Add a cluster or change its share of the machine. Raises ValueError."""
        dispatcher = self._running()
        dispatcher.shares.set_cluster(name, share, dispatcher.now_ns())
        dispatcher.pump()

    def remove_cluster(self, name: str) -> None:
        """Its tenants go to the default cluster. Raises KeyError, ValueError for the default."""
        dispatcher = self._running()
        dispatcher.shares.remove_cluster(name, dispatcher.now_ns())
        dispatcher.pump()

    def call(self, key: str, request: GuestRequest, *, edge: EdgeCalls, log: Callable[[bytes], None]) -> GuestCall:
        """Begin a request. Raises nothing for a request that cannot be: iterating it raises GuestFailed with the reason."""
        generator = self._generators.get(key)
        if generator is None or self._dispatcher is None:
            return refused(key, End.UNKNOWN_GENERATOR, key)
        return self._dispatcher.requests.call(generator, request, edge, log)

    async def verify(self, program: Program, limits: Limits, sample: GuestRequest) -> Verification:
        """Load, boot and run a program once in a worker of its own, which is thrown away.

        Raises ImageError when it cannot be loaded, GuestFailed when it does not boot or answer.
        """
        self._serial += 1
        key = f"{_VERIFY_TENANT}{self._serial}"
        bound_s = (limits.boot_cpu_ns + limits.wall_ns) / SECOND_NS + _VERIFY_EXTRA_S
        # The deadline of a verification is its own: it may wait for a worker and boot first.
        patient = replace(limits, wall_ns=int(bound_s * SECOND_NS), queue=1, vms=1, cpu_share=100)
        async with self._verifying:
            self.register(key, program, patient, tenant=key)
            generator = self._generators[key]
            call = self.call(key, sample, edge=NoEdge(), log=lambda _: None)
            head = bytearray()
            try:
                async for chunk in call:
                    head += chunk[: _OUTPUT_HEAD - len(head)]
            except GuestFailed as failed:
                if failed.outcome.end is End.REJECTED:
                    raise ImageError(failed.outcome.detail) from None
                raise
            finally:
                await call.aclose()
                if self._dispatcher is not None:
                    self.unregister(key)
        boot = generator.boot or Outcome(End.FINISHED, Usage())
        if call.outcome is None:
            raise AssertionError("an exhausted call has an outcome")
        return Verification(boot, call.outcome, bytes(head))

    def status(self) -> MonitorStatus:
        dispatcher = self._running()
        dispatcher.settle_tabs()
        allocations = dispatcher.shares.allocations(dispatcher.now_ns())
        clusters, tenants = _share_statuses(dispatcher.shares, allocations)
        return MonitorStatus(
            jail=self.jail,
            workers=tuple(
                WorkerStatus(
                    pid=lane.worker.pid,
                    lane=lane.name.lstrip("\0"),
                    jail=lane.worker.report,
                    generators=sum(generator.stage is not None for generator in lane.generators.values()),
                    calls=sum(1 for _ in lane.active_calls()),
                    cpu_ns=lane.worker.cpu_ns(),
                )
                for lane in dispatcher.pool.lanes.values()
                if lane.worker is not None
            ),
            generators=tuple(self._generator_status(generator, allocations) for generator in self._generators.values()),
            workers_started=dispatcher.pool.started,
            workers_lost=dispatcher.pool.lost,
            hot_bytes=dispatcher.pool.hot_bytes,
            hot_budget_bytes=self._policy.dispatch.pool.hot_bytes,
            parked=dispatcher.pool.parked,
            engine=dispatcher.engine,
            clusters=clusters,
            tenants=tenants,
        )

    def _generator_status(self, generator: Generator, allocations: Mapping[NodePath, Allocation]) -> GeneratorStatus:
        return GeneratorStatus(
            key=generator.key,
            tenant=generator.path[0],
            weight=generator.weight,
            calls=generator.calls,
            ends=generator.ends,
            cpu_ns=generator.cpu_ns + generator.lane.running_ns(generator),
            queued=len(generator.queue),
            active=len(generator.active),
            vms=len(generator.active) + generator.warm,
            quarantined_s=max(0.0, generator.record.until - self._clock()),
            cap=self._running().scheduler.share(generator.path).cap,
            delayed=generator.delayed,
            log_dropped_bytes=generator.log_dropped_bytes,
            allocation=allocations.get(generator.path, NOTHING),
        )

    def _running(self) -> Dispatcher:
        if self._dispatcher is None:
            raise SandboxError("the monitor is not running")
        return self._dispatcher

    async def _sweep(self, dispatcher: Dispatcher) -> None:
        while True:
            await asyncio.sleep(_SWEEP_S)
            dispatcher.sweep()


def _own_cap(limits: Limits, cap: int | None) -> int | None:
    """The lower of both; all of one CPU is no cap, for a vCPU cannot use more."""
    return cap if limits.cpu_share >= 100 else min(limits.cpu_share, cap or limits.cpu_share)


def _share_statuses(
    tree: ShareTree, allocations: Mapping[NodePath, Allocation]
) -> tuple[tuple[ShareStatus, ...], tuple[ShareStatus, ...]]:
    """Clusters and tenants; programs that are tried count as one cluster without tenants."""

    def shown(name: str, share: Share, cluster: str = "") -> ShareStatus:
        return ShareStatus(name, share.weight, share.cap, share.cpu_ns, allocations.get(share.path, NOTHING), cluster)

    clusters: list[ShareStatus] = []
    tenants: list[ShareStatus] = []
    for name, (share, below) in tree.clusters().items():
        if name != _VERIFY_CLUSTER:
            clusters.append(shown(name, share))
            tenants.extend(shown(path[0], tree.scheduler.share(path), name) for path in below)
        elif share.cpu_ns:
            clusters.append(shown(VERIFYING, share))
    return tuple(clusters), tuple(tenants)
