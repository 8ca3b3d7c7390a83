"""Where models and data come from: the hub, pinned URLs, PyPI wheels, local folders and a local mirror."""
