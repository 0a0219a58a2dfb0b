"""The control path and the command line."""
