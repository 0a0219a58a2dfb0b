"""Fitted models that read prompts (sentence encoder, categories, language), and the graph of what they read.

A package of its own because several stages use them and none of them owns them.
"""
