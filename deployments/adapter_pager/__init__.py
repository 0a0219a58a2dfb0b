"""The adapter pager: beside an engine, it decides which LoRA adapters are in the slots and lets requests in."""
