"""Meshes, sharding rules and communication."""

from vidjax.parallel.mesh import make_mesh

__all__ = ["make_mesh"]
