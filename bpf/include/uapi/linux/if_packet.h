/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Asked for by BCC's helpers.h; nothing of it is used. */
