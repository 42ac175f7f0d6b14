"""Playing episodes: one, a group, and many at once; returns and task order."""
