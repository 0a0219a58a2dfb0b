"""Tidemill on a Ray cluster that somebody else started: `ray job submit … -- python -m operators -c FILE`."""
