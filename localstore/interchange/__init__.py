"""The JSON layout of the help desk: import, export, and what payloads mean."""
