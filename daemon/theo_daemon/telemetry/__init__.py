"""What operators see of the router: log lines, metrics, traces, the status port. `names` lists every name."""
