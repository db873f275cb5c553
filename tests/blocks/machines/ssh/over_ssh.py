"""What the tests of a machine over SSH share besides fixtures."""

import sys


def python(code, *arguments):
    return [sys.executable, "-c", code, *map(str, arguments)]
