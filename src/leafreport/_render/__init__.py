"""Drawing: rows and tables to text, Markdown, CSV, HTML and treescope. Knows no reports, no JAX."""
