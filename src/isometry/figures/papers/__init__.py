"""One module a paper: what to run, what to draw, what to check."""
