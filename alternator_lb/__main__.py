"""The command line: ``python -m alternator_lb``."""


def main() -> int:
    return 0
