/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Preloaded into a program, it answers ioctl(FIONREAD) with "much" for every readable socket. If a program works with
 * that and stalls without, the kernel's answer was the cause and nothing else.
 */
#define _GNU_SOURCE
#include <poll.h>
#include <stdarg.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

int ioctl(int fd, unsigned long request, ...)
{
	struct pollfd readable = {.fd = fd, .events = POLLIN};
	va_list rest;
	void *value;
	long result;

	va_start(rest, request);
	value = va_arg(rest, void *);
	va_end(rest);
	result = syscall(SYS_ioctl, fd, request, value);
	if (!result && request == FIONREAD && poll(&readable, 1, 0) == 1 && readable.revents & POLLIN)
		*(int *)value = 1 << 30;
	return result;
}
