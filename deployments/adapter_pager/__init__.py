"""The adapter pager: it decides which LoRA adapters are in an engine's slots, and lets requests in."""
