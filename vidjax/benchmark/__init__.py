"""Speed on this machine against its own limits: a function for each benchmark."""

from vidjax.benchmark.loading import load
from vidjax.benchmark.streaming import stream
from vidjax.benchmark.training import train

__all__ = ["load", "stream", "train"]
