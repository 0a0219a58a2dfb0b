"""Which copy of a model a request goes to; which model is another decision, with another state."""
