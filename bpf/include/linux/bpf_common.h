/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Included by the bpf.h that BCC carries; its instruction codes are used by nothing here. */
