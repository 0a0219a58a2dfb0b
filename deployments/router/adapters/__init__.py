"""Adapters as one router knows them: names, what nodes have learnt, choices, judgements on their way."""
