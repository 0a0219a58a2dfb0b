"""How many replicas of which hardware are awake: the plan by unit commitment, and the rules it is compared with."""
