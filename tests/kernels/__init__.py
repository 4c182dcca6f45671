# SPDX-License-Identifier: GPL-2.0-or-later
"""The package on other kernels: whole machines under QEMU, without KVM."""
