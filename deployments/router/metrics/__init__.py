"""The router's Prometheus metrics: what is counted along the way, and what is read off when asked."""
