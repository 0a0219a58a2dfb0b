"""The core: what the fleet is and how it is decided.

Nothing in here performs I/O, reads a clock or draws a random number: facts come in as data, decisions go
out as data. The live cluster and the simulator call the same functions.
"""
