"""Tables of many models' answers to the same prompts, and how model-routing policies are tried on them."""
