# SPDX-License-Identifier: GPL-2.0-or-later
"""What can go wrong, in whole sentences: what, why, what to do. The edges translate, they add nothing."""


class SockaccelError(Exception):
    """The base; `str()` is a sentence for an administrator."""


class InvalidTarget(SockaccelError):
    """A target that names nothing that could ever be accelerated."""


class InvalidArgument(SockaccelError):
    """An option of a D-Bus method that does not exist, or is of another type."""


class UnknownTarget(SockaccelError):
    """Disable of a target that is not enabled."""


class LimitExceeded(SockaccelError):
    """One more than a limit allows."""


class KernelIssue(SockaccelError):
    """The kernel has a fault that ordinary programs stumble over, and the caller has not accepted it."""


class UnsupportedKernel(SockaccelError):
    """This kernel cannot do what sockaccel needs."""


class NotPermitted(SockaccelError):
    """The caller, or the daemon itself, may not do this."""


class LoaderEnded(SockaccelError):
    """A process that makes the BPF programs ended without an answer, most often for lack of memory."""


class KernelRefused(SockaccelError):
    """A kernel call failed that works on a supported system: the message says which and why."""


class MissingDependency(SockaccelError):
    """A package that sockaccel needs is not installed, or has another version."""


class InvalidConfiguration(SockaccelError):
    """A line of the configuration that cannot be used; names file and line."""


class AskFailed(SockaccelError):
    """A D-Bus call to somebody else was answered with an error, or not in time."""


class StateNotSaved(SockaccelError):
    """What was enabled or disabled cannot be remembered; the change was undone."""


class AlreadyRunning(SockaccelError):
    """Another daemon has what only one can have."""
