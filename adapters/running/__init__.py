"""Running: images through a file, to a record of each, with its maps and its overlay.

`request` is what was asked for, of which `job` is made ready; `entries` is the road of the images.
`rows` are entries as a table.
"""
