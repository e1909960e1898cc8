"""Documents in, the documents worth training on out."""
