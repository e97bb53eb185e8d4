"""What all floors use: how an AnnData object is read, and what is said where it cannot be."""
