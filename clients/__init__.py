"""What the three clients share: flags, requests, answers, the terminal, and how errors are told."""
