"""Pull's parts: what production has is fetched, set against what is pending, and applied in one local transaction."""
