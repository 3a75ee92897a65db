"""What is promised when things go wrong, claim by claim, at the size of a CI run and at that of a release.

    python -m tests.reliability [--size ci|release] [--list] [NAME ...]

runs the checks, all or those named, and prints a table. pytest runs the same checks at CI size (test_reliability). A check is a
function marked `@check` (see `_checks`) in a module of this package whose name begins neither with `_` nor with `test_`;
nothing else has to be told of it.
"""
