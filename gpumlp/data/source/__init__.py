"""How a file becomes a source: which reader, which dialect, what a cell means."""
