"""The learner: the one process that owns what model routing has learnt from answers and feedback."""
