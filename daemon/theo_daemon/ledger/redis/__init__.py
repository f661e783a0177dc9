"""The ledger of many hosts: in the Redis of the job streams, decided by scripts there."""

from theo_daemon.ledger.redis.ledger import RedisLedger

__all__ = ["RedisLedger"]
