"""A primary and its replica behind a sentinel, and a cluster: real servers on the loopback."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from tests.e2e.processes import until
from theo_daemon.embedded_valkey import _LAUNCH, EmbeddedValkey, find_server, free_port
from theo_daemon.hash_slot import SLOTS, slot_of

SERVICE = "main"
PREFIX = "{theo}"
NOTICED_MS = 500  # silence after which a server counts as dead
REPLICATES_FAST = ("--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1")


def client_of(port: int) -> Any:
    """An ordinary client that tries everything once."""
    return redis.Redis(port=port, decode_responses=True, socket_timeout=5, retry=Retry(NoBackoff(), 0))


class Server(EmbeddedValkey):
    """With a client to it."""

    def start(self) -> None:
        super().start()
        self.client = client_of(self.port)

    def stop(self) -> None:
        self.client.close()
        super().stop()

    @property
    def is_primary(self) -> bool:
        try:
            return bool(self.client.role()[0] == "master")
        except RedisError:
            return False

    @property
    def is_replica_in_step(self) -> bool:
        role = self.client.role()
        return bool(role[0] == "slave" and role[3] == "connected")


class Watched:
    """A primary and a replica that one sentinel watches."""

    def __init__(self, folder: Path) -> None:
        self.servers = [Server(folder / name, options=REPLICATES_FAST) for name in ("first", "second")]
        self.sentinel_port = free_port()
        self._folder = folder

    @contextlib.contextmanager
    def running(self) -> Iterator[Watched]:
        with ExitStack() as stack:
            first, second = [stack.enter_context(server) for server in self.servers]
            second.client.replicaof("127.0.0.1", first.port)
            until(lambda: second.is_replica_in_step, 10, "a replica in step")
            stack.enter_context(_sentinel(self._folder, self.sentinel_port, first.port))
            self.sentinel = client_of(self.sentinel_port)
            stack.callback(self.sentinel.close)
            until(lambda: self._replicas() == 1, 10, "a sentinel that knows the replica")
            yield self

    @property
    def url(self) -> str:
        """The first sentinel that it names is dead."""
        return f"redis+sentinel://127.0.0.1:1,127.0.0.1:{self.sentinel_port}/{SERVICE}/0"

    @property
    def primary(self) -> Server:
        """The one that sentinel names, when it says so itself."""
        found = until(self._named, 15, "a primary")
        assert found is not None
        return found

    def fail_over(self) -> None:
        """By command; the old primary lives on as a replica."""
        old = self.primary
        self.sentinel.execute_command("SENTINEL", "FAILOVER", SERVICE)
        until(lambda: self.primary is not old, 15, "another primary")

    def _named(self) -> Server | None:
        port = int(self.sentinel.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE)[1])
        return next((one for one in self.servers if one.port == port and one.is_primary), None)

    def _replicas(self) -> int:
        try:
            return len(self.sentinel.execute_command("SENTINEL", "REPLICAS", SERVICE))
        except RedisError:
            return 0


@contextlib.contextmanager
def _sentinel(folder: Path, port: int, primary: int) -> Iterator[None]:
    path = folder / "sentinel.conf"
    path.write_text(
        f"port {port}\nbind 127.0.0.1\ndir {folder}\nlogfile {folder / 'sentinel.log'}\n"
        f"sentinel monitor {SERVICE} 127.0.0.1 {primary} 1\n"
        f"sentinel down-after-milliseconds {SERVICE} {NOTICED_MS}\n"
        f"sentinel failover-timeout {SERVICE} 3000\n"
    )
    launcher = [sys.executable, "-I", "-S", "-c", _LAUNCH, str(os.getpid())]  # it ends with this process
    process = subprocess.Popen([*launcher, find_server(), str(path), "--sentinel"], stdout=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.kill()
        process.wait()


class Cluster:
    """Three primaries, and a replica of the one that has the slot of PREFIX."""

    def __init__(self, folder: Path) -> None:
        self.servers: list[Server] = []
        for name in ("a", "b", "c", "spare"):
            words = ["--cluster-enabled", "yes", "--cluster-node-timeout", str(NOTICED_MS)]
            words += ["--cluster-port", str(free_port()), "--cluster-replica-validity-factor", "0"]
            self.servers.append(Server(folder / name, options=(*words, *REPLICATES_FAST)))
        self.slot = slot_of(PREFIX)

    @contextlib.contextmanager
    def running(self) -> Iterator[Cluster]:
        with ExitStack() as stack:
            for server in self.servers:
                stack.enter_context(server)
            *primaries, spare = self.servers
            size = SLOTS // 3 + 1
            for number, server in enumerate(primaries):
                last = min(SLOTS, size * (number + 1)) - 1
                server.client.execute_command("CLUSTER", "ADDSLOTSRANGE", size * number, last)
                server.client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            for server in self.servers[1:]:
                bus = server.client.config_get("cluster-port")["cluster-port"]
                primaries[0].client.execute_command("CLUSTER", "MEET", "127.0.0.1", server.port, bus)
            owner = primaries[self.slot // size]
            until(lambda: all(_knows(server, 4) for server in self.servers), 10, "nodes that know each other")
            spare.client.execute_command("CLUSTER", "REPLICATE", node_id(owner))
            until(lambda: spare.is_replica_in_step, 10, "a replica in step")
            until(lambda: all(map(_is_whole, self.servers)), 10, "a cluster in working order")
            until(lambda: all(self.owner_of(server) is owner for server in self.servers), 10, "agreement")
            yield self

    @property
    def url(self) -> str:
        """The first node that it names is dead, and the other is not the one with our slot."""
        stranger = next(one for one in self.servers[:3] if one is not self.primary)
        return f"redis+cluster://127.0.0.1:1,127.0.0.1:{stranger.port}"

    @property
    def primary(self) -> Server:
        """The one that has the slot, when it says so itself."""
        found = until(lambda: next((one for one in self.servers if self._owns(one)), None), 15, "an owner")
        assert found is not None
        return found

    def owner_of(self, asked: Server) -> Server | None:
        """Who has the slot, if one believes `asked`."""
        for first, last, (_, port, *_), *_ in asked.client.execute_command("CLUSTER", "SLOTS"):
            if first <= self.slot <= last:
                return next(one for one in self.servers if one.port == port)
        return None

    def _owns(self, server: Server) -> bool:
        try:
            return self.owner_of(server) is server and _is_whole(server)
        except RedisError:
            return False


def node_id(server: Server) -> str:
    return str(server.client.execute_command("CLUSTER", "MYID"))


def _knows(server: Server, count: int) -> bool:
    nodes = str(server.client.execute_command("CLUSTER", "NODES"))
    return len(nodes.splitlines()) == count and "handshake" not in nodes


def _is_whole(server: Server) -> bool:
    return "cluster_state:ok" in str(server.client.execute_command("CLUSTER", "INFO"))


def move_slot(cluster: Cluster, old: Server) -> None:
    """Move the slot and its keys to another primary, as resharding tools do."""
    slot, new = cluster.slot, next(one for one in cluster.servers[:3] if one is not old)

    def set_slot(server: Server, *words: str) -> None:
        server.client.execute_command("CLUSTER", "SETSLOT", slot, *words)

    set_slot(new, "IMPORTING", node_id(old))
    set_slot(old, "MIGRATING", node_id(new))
    while keys := old.client.execute_command("CLUSTER", "GETKEYSINSLOT", slot, 10):
        old.client.execute_command("MIGRATE", "127.0.0.1", new.port, "", 0, 5000, "KEYS", *keys)
    for server in (new, old, *cluster.servers[:3]):
        set_slot(server, "NODE", node_id(new))


def node_password(watched: Watched, password: str) -> None:
    """What the servers ask for, and the sentinel knows."""
    for server in watched.servers:
        server.client.config_set("masterauth", password)
        server.client.config_set("requirepass", password)
    watched.sentinel.execute_command("SENTINEL", "SET", SERVICE, "auth-pass", password)
