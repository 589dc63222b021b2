"""Class order, data sources and input pipelines."""
