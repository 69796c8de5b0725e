"""What tests share: servers and clients to test with, and what they measure. It has no tests and knows no fixtures."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
SMALL_MODEL = "llama-2-chat-7b"  # the name that the small checkpoint goes by
