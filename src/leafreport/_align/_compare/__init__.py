"""What two matched programs do differently, and where, in a practitioner's words."""
