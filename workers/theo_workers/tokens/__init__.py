"""How many tokens a text or a request is, and how many it can be at most."""
