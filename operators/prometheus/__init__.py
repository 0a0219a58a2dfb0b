"""What Prometheus needs of us: where to scrape, and the rules by which it alerts."""
