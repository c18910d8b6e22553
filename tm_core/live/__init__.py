"""A live conversation: a portrait that listens and answers, and the server in front of it. Paper section 5."""
