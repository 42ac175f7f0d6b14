"""Running a server: one process, or several workers behind one address."""
