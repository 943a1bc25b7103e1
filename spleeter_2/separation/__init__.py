"""Songs -> stems."""
