"""Model routing: which model answers a request that leaves it open."""
