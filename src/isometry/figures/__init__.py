"""Paper figures: one config in `conf/figure/` and one class here for each; what runs it stands
beside what draws and checks it.

A figure is a class whose constructor takes the settings of a preset, with three methods, see
`isometry.figures.figure.Figure`.
"""
