"""Records of episodes, progress on the terminal, and the report page."""
