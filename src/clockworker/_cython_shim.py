"""Stands in for the `cython` module where Cython is not installed, so that it is never a run-time dependency.

The types of the compiled modules are in their .pxd files; the sources only ask whether they are compiled.
"""

compiled = False
