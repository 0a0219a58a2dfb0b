"""A small cluster of simulated engines under steady load, and what can go wrong in it, one after another."""
