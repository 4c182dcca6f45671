/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A client and a server on one CPU that sleep in recv() for each byte they get: what a program pays that sockaccel
 * does not accelerate, for watching recv(). Argument: milliseconds. Prints the calls of recv() per second.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static void fail(const char *what)
{
	perror(what);
	exit(1);
}

static double now(void)
{
	struct timespec time;

	if (clock_gettime(CLOCK_MONOTONIC, &time))
		fail("clock_gettime");
	return time.tv_sec + time.tv_nsec / 1e9;
}

static void serve(int listener)
{
	int one = 1, end = accept(listener, NULL, NULL);
	char byte;

	if (end < 0 || setsockopt(end, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)))
		fail("accept");
	while (recv(end, &byte, 1, 0) == 1) {
		if (send(end, &byte, 1, 0) != 1)
			fail("send");
	}
	_exit(0);
}

int main(int argc, char **argv)
{
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	int listener = socket(AF_INET, SOCK_STREAM, 0), end = socket(AF_INET, SOCK_STREAM, 0), one = 1;
	socklen_t length = sizeof(address);
	double begin, seconds;
	long trips = 0;
	cpu_set_t cpu;
	char byte = 0;

	CPU_ZERO(&cpu);
	CPU_SET(sched_getcpu(), &cpu);
	if (argc != 2 || sched_setaffinity(0, sizeof(cpu), &cpu))
		fail("usage: sleeper MILLISECONDS");
	seconds = atoi(argv[1]) / 1e3;
	if (bind(listener, (struct sockaddr *)&address, length) || listen(listener, 1) ||
	    getsockname(listener, (struct sockaddr *)&address, &length))
		fail("listen");
	if (!fork()) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		serve(listener);
	}
	if (connect(end, (struct sockaddr *)&address, length) ||
	    setsockopt(end, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)))
		fail("connect");
	begin = now();
	do {
		if (send(end, &byte, 1, 0) != 1 || recv(end, &byte, 1, 0) != 1)
			fail("send or recv");
		trips++;
	} while (now() - begin < seconds);
	printf("%.0f\n", 2 * trips / (now() - begin));
	return 0;
}
