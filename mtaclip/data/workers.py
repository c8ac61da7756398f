"""What the processes that read data do besides reading."""

import signal


def ignore_stop_signals(_: int) -> None:
    """Leave SIGTERM and SIGUSR1 to the training process, which shuts its workers down; a `worker_init_fn`.

    A scheduler signals all processes of a job, and a worker that dies of it would take the training process along
    before that has written its checkpoint.
    """
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
