"""The simulator against theory and against a real engine: parts of `load_tests.simulator_validity`."""
