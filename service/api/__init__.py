"""JSON routes by subject; each parses, calls one function and shapes the answer."""
