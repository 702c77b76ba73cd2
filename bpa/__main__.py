"""``python -m bpa`` is ``bpa``."""

from bpa.cli import main

main()
