"""Turns the configuration of a LiteLLM proxy into ours, and says of everything that has no equivalent so."""

from theo_daemon.litellm.convert import Imported, convert

__all__ = ["Imported", "convert"]
