"""How drift is put in line again: found with production's whole rows, then marked so that the next seal carries it."""
