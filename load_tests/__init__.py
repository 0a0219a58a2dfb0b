"""Load tests and benchmarks: black-box HTTP against a running cluster."""
