"""Programs as graphs of what meets what, and two such graphs matched node by node."""
