"""The cache of a company: a folder of its own, or Redis where REDIS_URL says so, with the same answers."""
