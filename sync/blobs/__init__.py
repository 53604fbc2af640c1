"""Blobs on their way: the lane beside the rows, in which objects reach production before the rows that name them."""
