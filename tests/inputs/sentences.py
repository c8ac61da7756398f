"""What an error says to a user."""


def check_sentence(error: Exception) -> None:
    """One sentence, that any terminal can show."""
    message = str(error)
    assert message.strip() and len(message.splitlines()) == 1 and not {"\0", "\x1b"} & set(message), repr(message)
