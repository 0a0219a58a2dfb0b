"""What a replayed trace is told as: figures and a page."""
