"""Traffic: arrivals and lengths, read from published formats or drawn from a seed."""
