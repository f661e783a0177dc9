"""One adapter per wire format, each behind `theo_workers.upstream.Upstream`."""
