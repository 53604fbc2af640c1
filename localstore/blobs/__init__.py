"""Blobs: bytes under a key, kept once by their content, with a row of the tenant that names them."""
