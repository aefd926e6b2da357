"""Files that are whole or not there: atomic writes, arrays and JSON with a checksum, figures. Knows no training."""
