"""How well a model does what its prompt says."""

from vidjax.evaluate.adherence import Examined, Report, evaluate, examine

__all__ = ["Examined", "Report", "evaluate", "examine"]
