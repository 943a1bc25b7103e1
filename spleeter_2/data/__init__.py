"""Songs on disk -> training examples."""
