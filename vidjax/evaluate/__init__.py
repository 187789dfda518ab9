"""How well a model does what its prompt says."""

from vidjax.evaluate.adherence import Report, evaluate

__all__ = ["Report", "evaluate"]
