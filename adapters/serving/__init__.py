"""A file where others use it: in a browser, in a Triton server, on a Ray cluster."""
