# SPDX-License-Identifier: GPL-2.0-or-later
"""One class for each kind of failure. Its text says in a sentence what failed, why, and what to do about it."""


class SockaccelError(Exception):
    """The base; `str()` is a sentence for an administrator."""


class InvalidTarget(SockaccelError):
    """A target that names nothing that could ever be accelerated."""


class InvalidArgument(SockaccelError):
    """An option, filter or property that does not exist, or has another type or value."""


class UnknownTarget(SockaccelError):
    """The target is not enabled."""


class ManagedByFile(SockaccelError):
    """A section of the configuration says what the caller wants to change; the text names file and line."""


class LimitExceeded(SockaccelError):
    """The call would exceed a limit, which the message names."""


class KernelIssue(SockaccelError):
    """The kernel has a fault that ordinary programs can meet, and nobody has accepted it for the target."""


class UnsupportedKernel(SockaccelError):
    """This kernel cannot do what sockaccel needs."""


class NotPermitted(SockaccelError):
    """The caller, or the daemon itself, may not do this."""


class LoaderEnded(SockaccelError):
    """A process that makes the BPF programs ended without an answer, most often for lack of memory."""


class KernelRefused(SockaccelError):
    """The kernel refused a BPF program, map or link that it takes on a supported system."""


class SystemRefused(SockaccelError):
    """A system call failed that works on a supported system: the message says which and why."""


class NoSystemBus(SockaccelError):
    """There is no connection to the system bus."""


class MissingDependency(SockaccelError):
    """A package that sockaccel needs is not installed, or has another version."""


class InvalidConfiguration(SockaccelError):
    """A line of the configuration cannot be used; the text names file and line."""


class AskFailed(SockaccelError):
    """A D-Bus call to another program was answered with an error, whose D-Bus name is `name`; '' for no answer."""

    def __init__(self, message: str, name: str = '') -> None:
        super().__init__(message)
        self.name = name


class StateNotSaved(SockaccelError):
    """What is enabled could not be written down, so the change was undone."""


class AlreadyRunning(SockaccelError):
    """Another daemon owns the bus name, or has locked a directory that only one may use."""
