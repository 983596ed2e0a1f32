"""How what is matched lies in leaves: pairs of parts, and which axis of one is which of the other."""
