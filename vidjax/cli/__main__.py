"""``python -m vidjax.cli``."""

from vidjax.cli import main

main()
