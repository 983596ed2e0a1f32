"""Values carried over from one model's leaves to another's, written to a file, and proved by running both."""
