"""`python -m tm_core.cli` is `talking-machines`."""

from . import main

main()
