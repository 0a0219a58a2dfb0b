"""One real engine with adapters, driven from outside: the engine, the trace, and what must not break it."""
