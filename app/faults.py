"""What is said to a user instead of an answer."""


class Refused(Exception):
    """A question that gets no answer, with the sentence that says why and what to do.

    Args:
        sentence: for people to read; it names no path of this machine.
        status: of HTTP.
        retry_after: seconds after which the same question may be answered.
    """

    def __init__(self, sentence: str, status: int = 400, retry_after: int | None = None):
        super().__init__(sentence)
        self.sentence, self.status, self.retry_after = sentence, status, retry_after
