"""One tenant's SQLite file: its connections, its writer, its capture."""
