"""What is written down of requests: decisions, one line each, and the figures of the page for people."""
