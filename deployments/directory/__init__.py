"""The fleet directory: which replicas exist, where they listen, and who has heard of it."""
