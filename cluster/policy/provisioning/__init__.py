"""How many replicas of which hardware are awake: unit commitment, and the rules it is compared to."""
