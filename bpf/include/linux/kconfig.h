/* SPDX-License-Identifier: GPL-2.0-or-later */
/* BCC force-includes this file; the one option that its own header asks for. */
#ifndef CONFIG_BPF_SYSCALL
#define CONFIG_BPF_SYSCALL 1
#endif
