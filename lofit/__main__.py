"""``python -m lofit``."""

from lofit.cli import main

main()
