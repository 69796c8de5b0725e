"""Code shared by the three clients: flags, requests, answers, the terminal, and error messages."""
