"""How exemplars learn: the meta-gradient of the base level."""
