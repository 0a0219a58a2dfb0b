"""What the adapter-paging benchmark is made of: situations, worlds, runs, oracles, reports."""
