"""Tenants at one router: keys, limits and budgets drawn ahead, and what callers are told of them."""
