"""Everything round the workers: intake, dispatcher, ledger, publisher, configuration, telemetry, command line."""

__version__ = "0.1.0"
