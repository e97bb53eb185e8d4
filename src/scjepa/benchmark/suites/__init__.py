"""Kinds of data that can be compared: sections of tissue, and dissociated cells."""
