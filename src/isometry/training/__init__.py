"""One run: compose, build, fit, outcome."""
