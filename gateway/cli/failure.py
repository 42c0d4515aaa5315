"""What cannot be done now, though nobody asked for anything wrong: exit code 1, where a mistake of the user has 2."""


class Failure(Exception):
    """The text says what stands in the way, and what to do."""
