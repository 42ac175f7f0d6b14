"""Episodes on Ray actors."""
