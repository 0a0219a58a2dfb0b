"""Prefill: replicas that compute prompts and hand their KV cache over."""
