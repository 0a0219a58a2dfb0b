"""What clients send and get, read and written: bodies, errors, responses, and plain HTTP to engines."""
