"""Evaluation: how well a file's maps and boxes find what people have marked, and how much of the
prediction hangs on what they show.

`annotations` is what was marked, `predict` what the file says of a batch of images, `record` where
that goes meanwhile; `localisation` and `average_precision` make figures of it, and `evaluate` is
the road. `faithfulness` needs no annotations.
"""
