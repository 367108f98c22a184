"""The ways in: HTTP API, pages and the command line."""
