"""What tests of several rooms stand on: phantoms, peers, factories, and programs that are killed on purpose."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
