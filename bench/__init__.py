"""Benchmarks: one module a question. `python -m bench NAME` runs one; without a name, `python -m bench` lists them."""
