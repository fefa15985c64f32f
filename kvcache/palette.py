"""The three colours of the book, from Okabe and Ito's palette, each with a mark; and one more."""

NEW = "#0072B2"  # solid: computed for the first time
RECOMPUTED = "#D55E00"  # hatched: computed before, and again
REUSED = "#009E73"  # outlined: read from the cache
OTHER = "#AA4499"  # what is none of these
