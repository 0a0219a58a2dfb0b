"""Every decision Tidemill takes: pure functions from what was observed to what is wanted, with reasons.

Time, chance and configuration are arguments, so a logged decision can be taken again offline.
"""
