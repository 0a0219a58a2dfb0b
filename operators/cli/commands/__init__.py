"""Groups of commands: what can be typed. What they do is imported only when they are used."""
