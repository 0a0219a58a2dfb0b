"""The fleet as one router sees it: loads, demand, energy, and replicas that fell silent."""
