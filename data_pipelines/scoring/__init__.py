"""Documents in, each with a score by a classifier out."""
