"""Formulas for how long engines take; every one names its source."""
