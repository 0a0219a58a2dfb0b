"""The router: the HTTP surface, and for every request which pool, which replica, and whether to compute."""
