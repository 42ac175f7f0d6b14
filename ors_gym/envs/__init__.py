"""ORS episodes as Gymnasium environments and vector environments."""
