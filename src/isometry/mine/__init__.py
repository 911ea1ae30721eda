"""A fork's own activations, networks, data sets, callbacks: nothing of the project's is in here.

A file `snake.py` in this folder is `_target_: isometry.mine.snake.NAME` in `conf/`.
"""
