"""Training: a classifier of several labels, learnt from images whose annotations say what is there.

Boxes serve nothing but to name the classes, so that a map that finds the objects has found them by
itself. `images` is what is learnt from, `head` a model for other classes, `train` the road.
"""
