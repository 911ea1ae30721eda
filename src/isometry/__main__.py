"""`python -m isometry` is `isometry`."""

from isometry.cli import main

main()
