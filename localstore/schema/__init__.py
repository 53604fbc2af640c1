"""Tables as values: read from models or from a file, compared, and turned into statements."""
