"""Fitted models that read prompts: the sentence encoder, the categories on top of it, the language detector.

A package of its own because several stages use them and none of them owns them.
"""
