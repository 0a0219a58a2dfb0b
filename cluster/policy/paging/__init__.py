"""Which LoRA adapter serves a request, and which adapters an engine keeps in its slots.

Two timescales (the formulation of POLAR, arXiv 2604.16583; the numbers of this project are its own): a router
chooses per request, a controller decides what stays resident. `core.py` puts both together for one node.
"""
