"""Convert: an exported `.onnx` file in half precision or in int8, proven anew beside the original.

The steps: `half` or `int8` makes the graph, `proof` compares the two files on images, `convert`
writes what passes, with the card rewritten.
"""
