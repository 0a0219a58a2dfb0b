"""Engines: what computes tokens inside a replica, and the replica around it."""
