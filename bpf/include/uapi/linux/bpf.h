/* SPDX-License-Identifier: GPL-2.0-or-later */
/* BCC carries the kernel's bpf.h inside its library, under this name. */
#include <bcc/bpf.h>
