"""Several runs that belong together: the folds of a cross-validation, the points of a sweep, and how they compare."""
