"""A model's program as operations on arrays, whose axes are unified, and whose leaves have places."""
