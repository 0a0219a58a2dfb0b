"""Replica routing policies compared in the simulator: the fleets and the traffic they are compared on."""
