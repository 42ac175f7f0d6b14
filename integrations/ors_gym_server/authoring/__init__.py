"""Writing ORS environments: the base class and the tool decorators."""
