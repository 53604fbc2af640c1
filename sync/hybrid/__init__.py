"""HybridStorage: tenants' files as the truth, carried to production in the background."""
