"""Combined: replicas that compute prompts and make tokens, as one engine alone would."""
