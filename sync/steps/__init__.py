"""The steps of a push, one file each."""
