"""One example of every operation, and its agreement with the formula in float64."""
