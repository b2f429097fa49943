"""The engine: shape, resolve, compare, and the phases that use them. It sees connectors only by contract."""
