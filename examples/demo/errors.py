"""What stops the demo."""


class DemoError(Exception):
    """The demo cannot go on; the text is for the person in front of it."""
