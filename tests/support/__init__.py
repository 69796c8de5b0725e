"""Code shared by tests: servers, clients and measurements. It contains no tests and uses no fixtures."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
SMALL_MODEL = "llama-2-chat-7b"  # the name of the small checkpoint
