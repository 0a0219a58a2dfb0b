"""Decode: replicas that pull a prompt's KV cache and make the tokens."""
