"""What it takes to serve one model: clock, errors, breaker, health, actor, upstreams. No Redis, no SQLite."""
