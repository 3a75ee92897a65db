"""The same application in each framework: what `test_frameworks` asks is answered by all of them, as far as they can."""
