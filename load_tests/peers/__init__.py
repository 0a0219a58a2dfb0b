"""Other gateways to be measured beside Tidemill's: how each is installed, started and stopped.

Each lives in a virtual environment of its own that a benchmark makes on request; none is a dependency.
"""
