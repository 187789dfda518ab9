"""Compiled programs on disk: only the first run of a kind waits for the compiler."""

import os
from pathlib import Path

FOLDER = "~/.cache/vidjax/compiled"
"""Where they are kept, unless JAX_COMPILATION_CACHE_DIR says it."""


def keep_compiled() -> None:
    """Has JAX keep what it compiles from now on."""
    import jax

    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        jax.config.update("jax_compilation_cache_dir", str(Path(FOLDER).expanduser()))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
